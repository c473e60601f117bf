//! What the tests of one driver said.

use std::collections::BTreeSet;

/// Tests by their names, without the modules that they are in.
#[derive(Default, Debug)]
pub struct Results {
    pub passed: BTreeSet<String>,
    pub failed: BTreeSet<String>,
}

impl Results {
    /// Reads the output of `cargo test`.
    pub fn parse(output: &str) -> Self {
        let mut results = Results::default();
        let tests = output.lines().filter_map(|line| {
            let (path, outcome) = line.trim_end().strip_prefix("test ")?.split_once(" ... ")?;
            Some((path.rsplit("::").next()?.to_owned(), outcome))
        });
        for (name, outcome) in tests {
            match outcome {
                "ok" => results.passed.insert(name),
                "FAILED" => results.failed.insert(name),
                _ => continue,
            };
        }
        results
    }

    /// Tests of a statement that passed.
    pub fn passed_of(&self, number: u32) -> impl Iterator<Item = &str> {
        let passed = self.passed.iter().map(String::as_str);
        passed.filter(move |name| statement(name) == Some(number))
    }
}

/// The statement that a test checks: `c40_…` and `contract_40_…` check the fortieth.
pub fn statement(name: &str) -> Option<u32> {
    let numbered = name.strip_prefix("contract_").or(name.strip_prefix('c'))?;
    numbered.split_once('_')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_from_the_output() {
        let results = Results::parse(
            "running 4 tests\n\
             test receive::c40_a_reset ... ok\n\
             test receive::c41_a_wait ... FAILED\n\
             test slow ... ignored\n\
             test contract_61_dropped ... ok\r\n\n\
             test result: FAILED. 2 passed; 1 failed; 1 ignored\n",
        );
        assert_eq!(
            results.passed.iter().collect::<Vec<_>>(),
            ["c40_a_reset", "contract_61_dropped"]
        );
        assert_eq!(results.failed.iter().collect::<Vec<_>>(), ["c41_a_wait"]);
        assert_eq!(results.passed_of(40).collect::<Vec<_>>(), ["c40_a_reset"]);
    }

    #[test]
    fn only_a_number_makes_a_name_that_of_a_statement() {
        assert_eq!(statement("c07_a_clone"), Some(7));
        assert_eq!(statement("contract_61_a_dropped_receive"), Some(61));
        assert_eq!(statement("closing_the_port"), None);
        assert_eq!(statement("c"), None);
    }
}
