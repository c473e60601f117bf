//! What Wine cannot show.

/// Tests that are not run there, with the reasons.
#[derive(Debug)]
pub struct Unshown {
    pub reasons: Vec<Reason>,
}

#[derive(Debug)]
pub struct Reason {
    pub sentence: String,
    /// Each is a part of the names of tests, as `--skip` takes it.
    pub patterns: Vec<String>,
}

impl Unshown {
    /// Reads reasons, each above the indented patterns that it is for. `#` begins a comment.
    pub fn parse(text: &str) -> Self {
        let mut reasons: Vec<Reason> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match (line.strip_prefix("  "), reasons.last_mut()) {
                (Some(pattern), Some(reason)) => reason.patterns.push(pattern.trim().to_owned()),
                _ if line.trim().is_empty() => {}
                _ => reasons.push(Reason {
                    sentence: line.trim().to_owned(),
                    patterns: Vec::new(),
                }),
            }
        }
        Unshown { reasons }
    }

    /// The place of the reason why a test is not run.
    pub fn why(&self, test: &str) -> Option<usize> {
        let names = |pattern: &String| test.contains(pattern.as_str());
        self.reasons
            .iter()
            .position(|reason| reason.patterns.iter().any(names))
    }

    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        let patterns = self.reasons.iter().flat_map(|reason| &reason.patterns);
        patterns.map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_belong_to_the_reason_above_them() {
        let unshown = Unshown::parse("# comment\nOne.\n  c01_a\n  c21_\n\nTwo.\n  c40_b\n");
        assert_eq!(unshown.why("c21_anything"), Some(0));
        assert_eq!(unshown.why("c40_before"), Some(1));
        assert_eq!(unshown.why("c41_x"), None);
        assert_eq!(unshown.reasons[1].sentence, "Two.");
    }
}
