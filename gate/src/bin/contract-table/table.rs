//! The table, or why there is none.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::promises::{Promise, Promises, Verdict};
use crate::results::{Results, statement};
use crate::unshown::Unshown;
use crate::{DRIVERS, NOT_UNDER_WINE, PROMISES, STATEMENTS, UNDER_WINE};

const HEADER: &str = "\
# The contract, statement by driver

Made by `.ci/contract-table` from the results of the tests and the sentences of
[contract.md](contract.md); the gate fails when it is not what they say. A statement is marked as kept
on a driver only if tests that bear its number passed there.

`✓` kept · `≠` kept differently, as the sentences say · `–` Windows only, for the reason given ·
`?1` not shown under Wine, for the reason of that number below; beside a mark: not all of it shown

";

/// Returns the table, or what does not fit.
pub fn make(
    promises: &Promises,
    unshown: &Unshown,
    results: &[Results],
) -> Result<String, Vec<String>> {
    let mut table = Table {
        promises,
        unshown,
        results,
        faults: Vec::new(),
    };
    let text = table.write();
    match table.faults.is_empty() {
        true => Ok(text),
        false => Err(table.faults),
    }
}

struct Table<'a> {
    promises: &'a Promises,
    unshown: &'a Unshown,
    /// By driver.
    results: &'a [Results],
    faults: Vec<String>,
}

impl Table<'_> {
    fn write(&mut self) -> String {
        self.check_results();
        let mut text = HEADER.to_owned();
        let _ = writeln!(text, "| | `{}` | |", DRIVERS.join("` | `"));
        let _ = writeln!(text, "|-|{}-|", "-|".repeat(DRIVERS.len()));
        for number in 1..=STATEMENTS {
            let Some(promise) = self.promises.common(number) else {
                let fault = format!("{PROMISES} says nothing of statement {number}");
                self.faults.push(fault);
                continue;
            };
            let cells: Vec<_> = (0..DRIVERS.len())
                .map(|driver| self.cell(driver, number, promise))
                .collect();
            let sentences = self.sentences(number, promise).replace('|', "\\|");
            let _ = writeln!(text, "| {number} | {} | {sentences} |", cells.join(" | "));
        }
        text.push_str("\nNot shown under Wine:\n\n");
        for (place, reason) in self.unshown.reasons.iter().enumerate() {
            let _ = writeln!(text, "{}. {}", place + 1, reason.sentence);
        }
        text
    }

    fn check_results(&mut self) {
        for (driver, results) in DRIVERS.iter().zip(self.results) {
            for test in &results.failed {
                self.faults.push(format!("{test} failed on {driver}"));
            }
            let numbered = results.passed.iter().filter_map(|test| statement(test));
            for number in numbered.filter(|&number| number == 0 || number > STATEMENTS) {
                self.faults.push(format!("there is no statement {number}"));
            }
        }
        for pattern in self.unshown.patterns() {
            let known = |test: &String| test.contains(pattern);
            if !self
                .results
                .iter()
                .any(|results| results.passed.iter().any(known))
            {
                let fault = format!("no test is called {pattern}, which {NOT_UNDER_WINE} names");
                self.faults.push(fault);
            }
        }
    }

    fn cell(&mut self, driver: usize, number: u32, common: &Promise) -> String {
        let name = DRIVERS[driver];
        let promise = self.promises.own(name, number).unwrap_or(common);
        if promise.sentences.is_empty() {
            let fault = format!("{PROMISES} has no sentence on statement {number} on {name}");
            self.faults.push(fault);
        }
        let shown = self.results[driver].passed_of(number).next();
        let reasons: BTreeSet<_> = match name == UNDER_WINE {
            true => self.reasons(driver, number),
            false => BTreeSet::new(),
        };
        let mark = match promise.verdict {
            Verdict::WindowsOnly => {
                if let Some(test) = shown {
                    self.faults.push(format!(
                        "{test} passed on {name}, where statement {number} is said not to apply"
                    ));
                }
                return "–".to_owned();
            }
            Verdict::Kept => "✓",
            Verdict::KeptDifferently => "≠",
        };
        if shown.is_none() && reasons.is_empty() {
            self.faults.push(format!(
                "statement {number} is said to be kept on {name}, but no test of it passed there"
            ));
        }
        let marks = shown.map(|_| mark.to_owned());
        let reasons = reasons.iter().map(|place| format!("?{}", place + 1));
        marks
            .into_iter()
            .chain(reasons)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Why tests of a statement that other drivers passed were not run for this one.
    fn reasons(&self, driver: usize, number: u32) -> BTreeSet<usize> {
        let elsewhere = self
            .results
            .iter()
            .flat_map(|results| results.passed_of(number));
        let not_here = elsewhere.filter(|&test| !self.results[driver].passed.contains(test));
        not_here.filter_map(|test| self.unshown.why(test)).collect()
    }

    /// What is said of a statement: of a kept one the first sentence, of others all of them.
    fn sentences(&self, number: u32, common: &Promise) -> String {
        let first = match common.verdict {
            Verdict::Kept => common.sentences.split_inclusive(". ").next(),
            _ => None,
        };
        let mut said = first.unwrap_or(&common.sentences).trim_end().to_owned();
        for driver in DRIVERS {
            if let Some(own) = self.promises.own(driver, number) {
                let _ = write!(said, " `{driver}`: {}", own.sentences);
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All statements kept, and the first also tested as the second.
    fn promises(changed: &str) -> Promises {
        Promises::parse(&format!(
            "- **1** to **65** kept. So it is. And more.\n{changed}"
        ))
    }

    fn results() -> Vec<Results> {
        let passed = (1..=STATEMENTS).map(|number| format!("test a::c{number:02}_x ... ok\n"));
        let output: String = passed.collect();
        DRIVERS.iter().map(|_| Results::parse(&output)).collect()
    }

    fn no_unshown() -> Unshown {
        Unshown::parse("")
    }

    /// What `make` finds wrong.
    fn faults(promises: &Promises, unshown: &Unshown, results: &[Results]) -> String {
        make(promises, unshown, results)
            .expect_err("does not fit")
            .join("\n")
    }

    #[test]
    fn a_row_says_what_is_kept_where_and_in_which_sentence() {
        let promises =
            promises("- **2** Windows only. No.\n### `iocp`\n- **3** kept differently. Not so.\n");
        let mut results = results();
        for of_driver in &mut results {
            of_driver.passed.remove("c02_x");
        }
        let table = make(&promises, &no_unshown(), &results).expect("it fits");
        assert!(table.contains("| 1 | ✓ | ✓ | ✓ | So it is. |\n"), "{table}");
        assert!(table.contains("| 2 | – | – | – | No. |\n"), "{table}");
        assert!(
            table.contains("| 3 | ✓ | ✓ | ≠ | So it is. `iocp`: Not so. |\n"),
            "{table}"
        );
    }

    #[test]
    fn a_promise_without_a_test_that_passed_is_a_fault() {
        let mut results = results();
        results[1].passed.remove("c09_x");
        let said = faults(&promises(""), &no_unshown(), &results);
        assert_eq!(
            said,
            "statement 9 is said to be kept on poll, but no test of it passed there"
        );
    }

    #[test]
    fn a_test_that_failed_is_a_fault() {
        let mut results = results();
        results[2].failed.insert("c09_y".to_owned());
        assert_eq!(
            faults(&promises(""), &no_unshown(), &results),
            "c09_y failed on iocp"
        );
    }

    #[test]
    fn a_statement_without_a_sentence_is_a_fault() {
        let said = faults(&promises("- **9** kept.\n"), &no_unshown(), &results());
        assert!(
            said.contains("has no sentence on statement 9 on uring"),
            "{said}"
        );
        let said = faults(
            &Promises::parse("- **2** to **65** kept. So.\n"),
            &no_unshown(),
            &results(),
        );
        assert!(said.contains("says nothing of statement 1"), "{said}");
    }

    #[test]
    fn a_test_of_what_is_windows_only_is_a_fault() {
        let said = faults(
            &promises("- **9** Windows only. No.\n"),
            &no_unshown(),
            &results(),
        );
        assert!(said.contains("c09_x passed on uring"), "{said}");
    }

    #[test]
    fn what_wine_cannot_show_is_marked_and_has_its_reason() {
        let unshown = Unshown::parse("It cannot.\n  c09_\n  c10_part\n");
        let mut results = results();
        results[2].passed.remove("c09_x");
        results[0].passed.insert("c10_part".to_owned());
        let table = make(&promises(""), &unshown, &results).expect("it fits");
        assert!(table.contains("| 9 | ✓ | ✓ | ?1 |"), "{table}");
        assert!(table.contains("| 10 | ✓ | ✓ | ✓ ?1 |"), "{table}");
        assert!(table.contains("\n1. It cannot.\n"), "{table}");
    }

    #[test]
    fn only_what_was_run_under_wine_is_excused_by_it() {
        let unshown = Unshown::parse("It cannot.\n  c09_\n");
        let mut results = results();
        results[0].passed.remove("c09_x");
        let said = faults(&promises(""), &unshown, &results);
        assert!(said.contains("kept on uring, but no test"), "{said}");
    }

    #[test]
    fn an_excuse_for_a_test_that_is_no_more_is_a_fault() {
        let unshown = Unshown::parse("It cannot.\n  c09_gone\n");
        let said = faults(&promises(""), &unshown, &results());
        assert!(said.contains("no test is called c09_gone"), "{said}");
    }
}
