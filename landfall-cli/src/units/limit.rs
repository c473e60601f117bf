//! A bound that may be absent, so that `--help` can show its default as `none`.

use std::fmt;

/// A bound, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T>(pub Option<T>);

impl<T> Limit<T> {
    /// Makes a reader of limits from a reader of the bounded quantity.
    pub fn parser(
        read: fn(&str) -> Result<T, String>,
    ) -> impl Fn(&str) -> Result<Self, String> + Clone + Send + Sync + 'static
    where
        T: 'static,
    {
        move |text| match text.trim() {
            "none" => Ok(Self(None)),
            bound => read(bound).map(|bound| Self(Some(bound))),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(bound) => bound.fmt(f),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::parse_count;

    #[test]
    fn none_and_a_bound_are_read() {
        let read = Limit::parser(parse_count);
        assert_eq!(read("none"), Ok(Limit(None)));
        assert_eq!(read("30k"), Ok(Limit(Some(30_000))));
        assert!(read("nobody").is_err());
    }
}
