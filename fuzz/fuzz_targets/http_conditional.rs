//! Conditions of requests: no field makes the reader panic, and what it decides is what RFC 9110 says of
//! lists of tags and of dates.
#![no_main]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;

#[path = "../../landfall-cli/src/files/conditional.rs"]
#[allow(dead_code, reason = "the tool's own; a part is used here")]
mod conditional;

use conditional::{Validators, Verdict, within_dates};

/// `If-Match`, `If-Unmodified-Since`, `If-None-Match`, `If-Modified-Since`.
const FIELDS: [&str; 4] = [
    "if-match",
    "if-unmodified-since",
    "if-none-match",
    "if-modified-since",
];

fn verdict(validators: &Validators, fields: &[(usize, &str)]) -> Verdict {
    validators.evaluate(|wanted| {
        let named = move |field: &&(usize, &str)| FIELDS[field.0 % FIELDS.len()] == wanted;
        let values: Vec<_> = fields.iter().filter(named).map(|field| field.1).collect();
        values.into_iter()
    })
}

/// A time before or after 1970, where the system has one.
fn time(seconds: i64, nanos: u32) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    whole?.checked_add(Duration::from_nanos(nanos.into()))
}

type Input<'a> = (
    i64,
    u32,
    u64,
    i64,
    Vec<(bool, &'a str)>,
    Vec<(usize, &'a str)>,
);

fuzz_target!(|input: Input<'_>| {
    let (seconds, nanos, length, than, others, fields) = input;
    let (Some(modified), Some(than)) = (time(seconds, nanos), time(than, 0)) else {
        return;
    };
    let validators = Validators::new(modified, length);
    verdict(&validators, &fields);
    for (_, field) in &fields {
        let same = validators.is_same(field);
        assert!(!same || *field == validators.etag || !field.contains('"'));
    }

    // A list of well-formed tags, ours among them or not.
    let own = validators.etag.trim_matches('"');
    let tags: Vec<(bool, String)> = others
        .iter()
        .map(|(is_weak, opaque)| (*is_weak, opaque.replace(['"', '\0'], "")))
        .map(|(is_weak, opaque)| {
            (
                is_weak,
                if opaque.is_empty() {
                    own.to_owned()
                } else {
                    opaque
                },
            )
        })
        .collect();
    if !tags.is_empty() {
        let shown = tags
            .iter()
            .map(|(is_weak, opaque)| format!("{}\"{opaque}\"", if *is_weak { "W/" } else { "" }));
        let list = shown.collect::<Vec<_>>().join(", ");
        let weakly = tags.iter().any(|(_, opaque)| opaque == own);
        let strongly = tags
            .iter()
            .any(|(is_weak, opaque)| !is_weak && opaque == own);
        let expected = |holds, then, otherwise| if holds { then } else { otherwise };
        assert_eq!(
            verdict(&validators, &[(0, &list)]),
            expected(strongly, Verdict::Proceed, Verdict::Failed)
        );
        assert_eq!(
            verdict(&validators, &[(2, &list)]),
            expected(weakly, Verdict::NotModified, Verdict::Proceed)
        );
    }

    let date = httpdate::fmt_http_date(within_dates(than));
    let whole = |time| {
        within_dates(time)
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let is_newer = whole(modified) > whole(than);
    assert_eq!(
        verdict(&validators, &[(1, &date)]) == Verdict::Failed,
        is_newer
    );
    assert_eq!(
        verdict(&validators, &[(3, &date)]) == Verdict::Proceed,
        is_newer
    );
    assert_eq!(validators.is_same(&date), whole(modified) == whole(than));
});
