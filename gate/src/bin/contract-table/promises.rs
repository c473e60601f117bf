//! What `docs/contract.md` says of each statement.

use std::collections::BTreeMap;

/// A verdict on a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Kept,
    KeptDifferently,
    WindowsOnly,
}

const VERDICTS: [(&str, Verdict); 3] = [
    ("kept differently.", Verdict::KeptDifferently),
    ("kept.", Verdict::Kept),
    ("Windows only.", Verdict::WindowsOnly),
];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promise {
    pub verdict: Verdict,
    /// One or several.
    pub sentences: String,
}

#[derive(Default, Debug)]
pub struct Promises {
    common: BTreeMap<u32, Promise>,
    /// What is said of one driver only.
    own: BTreeMap<(String, u32), Promise>,
}

impl Promises {
    /// Reads the list items that begin with numbers: `- **32** to **36** Windows only. There are …`.
    /// Those below a heading that is a driver's name (``### `iocp` ``) are of that driver.
    pub fn parse(text: &str) -> Self {
        let mut promises = Promises::default();
        let mut driver: Option<String> = None;
        let mut item = String::new();
        for line in text.lines().chain([""]) {
            if line.starts_with("  ") && !item.is_empty() {
                item.push(' ');
                item.push_str(line.trim());
                continue;
            }
            promises.add(driver.as_deref(), &item);
            item.clear();
            if let Some(heading) = line.strip_prefix('#') {
                let name = heading.trim_start_matches('#').trim();
                let name = name
                    .strip_prefix('`')
                    .and_then(|name| name.strip_suffix('`'));
                driver = name.map(str::to_owned);
            } else if let Some(text) = line.strip_prefix("- ") {
                item.push_str(text);
            }
        }
        promises
    }

    fn add(&mut self, driver: Option<&str>, item: &str) {
        let (numbers, rest) = numbers(item);
        let found = VERDICTS.iter().find(|(word, _)| rest.starts_with(word));
        let Some((word, verdict)) = found else {
            return;
        };
        let promise = Promise {
            verdict: *verdict,
            sentences: rest[word.len()..].trim().to_owned(),
        };
        for number in numbers {
            match driver {
                None => self.common.insert(number, promise.clone()),
                Some(driver) => self
                    .own
                    .insert((driver.to_owned(), number), promise.clone()),
            };
        }
    }

    pub fn common(&self, number: u32) -> Option<&Promise> {
        self.common.get(&number)
    }

    /// What is said of one driver beside what is said of all.
    pub fn own(&self, driver: &str, number: u32) -> Option<&Promise> {
        self.own.get(&(driver.to_owned(), number))
    }
}

/// The numbers that an item begins with, and what follows them.
fn numbers(item: &str) -> (Vec<u32>, &str) {
    let mut numbers = Vec::new();
    let mut rest = item;
    let mut through = false;
    while let Some((number, behind)) = rest
        .strip_prefix("**")
        .and_then(|rest| rest.split_once("**"))
        .and_then(|(number, behind)| Some((number.parse().ok()?, behind)))
    {
        match numbers.last() {
            Some(&last) if through => numbers.extend(last + 1..=number),
            _ => numbers.push(number),
        }
        through = behind.starts_with(" to ");
        rest = [", ", " to ", " "]
            .iter()
            .find_map(|separator| behind.strip_prefix(separator))
            .unwrap_or(behind);
    }
    (numbers, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_give_verdicts_and_sentences_for_their_numbers() {
        let promises = Promises::parse(
            "# Title\n- **1** kept. One\n  and a half.\n- no number\n\n\
             - **2**, **4** to **6** Windows only. None.\n## More\n### `iocp`\n- **4** kept. Here.\n",
        );
        let kept = promises.common(1).expect("an item");
        assert_eq!(
            (kept.verdict, &kept.sentences[..]),
            (Verdict::Kept, "One and a half.")
        );
        assert!(promises.common(3).is_none());
        for number in [2, 4, 5, 6] {
            let promise = promises.common(number).expect("an item");
            assert_eq!(promise.verdict, Verdict::WindowsOnly);
        }
        assert_eq!(promises.own("iocp", 4).expect("an item").sentences, "Here.");
        assert!(promises.own("iocp", 5).is_none());
    }
}
