//! Sizes in bytes: `64`, `16Ki`, `1M`.

use bytesize::ByteSize;

/// Reads a size: `k M G` are powers of 1000, `Ki Mi Gi` powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match text.trim().parse::<ByteSize>() {
        Ok(size) => Ok(size.as_u64()),
        Err(_) => Err(format!(
            "`{text}` is not a size: write bytes as 64, 16k (16,000), 16Ki (16,384), 1M or 1Mi"
        )),
    }
}

/// Shows a size with three significant digits in powers of 1024: `512 B`, `4.88 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_and_1024s_are_told_apart() {
        assert_eq!(parse_size("64"), Ok(64));
        assert_eq!(parse_size("16k"), Ok(16_000));
        assert_eq!(parse_size("16Ki"), Ok(16_384));
        assert_eq!(parse_size("1M"), Ok(1_000_000));
        assert_eq!(parse_size("1MiB"), Ok(1_048_576));
        assert_eq!(parse_size("2G"), Ok(2_000_000_000));
        assert_eq!(parse_size("1Gi"), Ok(1_073_741_824));
    }

    #[test]
    fn nonsense_is_refused_with_examples() {
        for nonsense in ["", "-1", "big", "64 potatoes"] {
            assert!(
                parse_size(nonsense).unwrap_err().contains("16Ki (16,384)"),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1024), "1.00 KiB");
        assert_eq!(show_bytes(5_120_000), "4.88 MiB");
        assert_eq!(show_bytes(300 << 20), "300 MiB");
    }
}
