//! Shares of a whole, in per cent.

use std::fmt;

/// A share between nothing and everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// Whether the member numbered `index` belongs to the share. Members are spread evenly: of a
    /// share of 1 %, every hundredth belongs.
    pub fn includes(self, index: u64) -> bool {
        let members_before = |count: u64| (count as f64 * self.0).floor();
        members_before(index + 1) > members_before(index)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// Reads a share such as `1%`. A bare number is refused: `0.5` could be a half or half a per cent.
pub fn parse_share(text: &str) -> Result<Share, String> {
    let Some(number) = text.trim().strip_suffix('%') else {
        return Err(format!(
            "`{text}` has no unit: write a share in per cent, such as 1% or 0.5%"
        ));
    };
    match number.trim().parse::<f64>() {
        Ok(per_cent) if (0.0..=100.0).contains(&per_cent) => Ok(Share(per_cent / 100.0)),
        _ => Err(format!("`{text}` is not a share: write 0% to 100%")),
    }
}

/// Shows a fraction in per cent with two decimals: `3.82 %`.
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_spread_evenly() {
        let one_in_hundred = parse_share("1%").unwrap();
        let members: Vec<u64> = (0..300).filter(|&i| one_in_hundred.includes(i)).collect();
        assert_eq!(members, [99, 199, 299]);
        assert_eq!(
            (0..1000)
                .filter(|&i| parse_share("25%").unwrap().includes(i))
                .count(),
            250
        );
        assert!((0..10).all(|i| parse_share("100%").unwrap().includes(i)));
        assert!(!(0..10).any(|i| parse_share("0%").unwrap().includes(i)));
    }

    #[test]
    fn a_bare_number_and_nonsense_are_refused() {
        assert!(parse_share("0.5").unwrap_err().contains("per cent"));
        for nonsense in ["101%", "-1%", "some%", "%"] {
            assert!(
                parse_share(nonsense).unwrap_err().contains("0% to 100%"),
                "{nonsense}"
            );
        }
    }
}
