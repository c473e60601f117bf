//! `landfall demo`: both processes, one table, and nothing left behind.

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, test_kill_process};
use support::{Outcome, PATIENCE, Running, landfall, run};

#[test]
fn echo_is_verified_and_both_columns_are_shown() {
    let outcome = run(&["demo", "-c", "300", "--interval", "200ms"]).expect_code(0);
    for part in [
        "the tutorial",
        "this machine",
        "30,000",
        "90,000",
        "3.82 %",
        "11.53 %",
        "verified",
        "900",
        "driver",
    ] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {outcome:#?}");
    }
}

#[test]
fn json_holds_both_results() {
    let json = run(&["demo", "-c", "300", "--interval", "200ms", "--json", "-q"])
        .expect_code(0)
        .json();
    assert_eq!(json["load"]["verified"], 900);
    assert_eq!(json["load"]["peak_connections"], 300);
    assert_eq!(json["serve"]["accepted"], 300);
    assert_eq!(json["serve"]["received_bytes"], 900 * 64);
    assert_eq!((&json["lost"], &json["exit_code"]), (&0.into(), &0.into()));
    assert!(json["server_cpu_share_of_machine"].as_f64().unwrap() > 0.0);
}

#[test]
fn quiet_leaves_the_table_and_nothing_else() {
    let outcome = run(&["demo", "-q", "-c", "5", "--interval", "10ms"]).expect_code(0);
    assert_eq!(outcome.stderr, "");
    let last = outcome.stdout.lines().last().expect("a table");
    assert!(last.starts_with("driver"), "{outcome:#?}");
}

#[test]
fn memory_per_connection_is_told_where_there_are_enough() {
    let key = "server_memory_per_connection_bytes";
    let flags = |count| ["demo", "-c", count, "--interval", "500ms"];
    let few = run(&[&flags("300")[..], &["--json"]].concat()).expect_code(0);
    assert!(few.json()[key].is_null(), "{few:#?}");
    let many = run(&[&flags("1k")[..], &["--json"]].concat()).expect_code(0);
    assert!(many.json()[key].as_u64() > Some(0), "{many:#?}");
    let table = run(&flags("5")).expect_code(0).stdout;
    assert!(table.contains("too few connections to tell"), "{table}");
}

#[test]
fn latency_counts_from_sending_where_nothing_is_planned() {
    let planned = run(&["demo", "-c", "5", "--interval", "10ms"]).stdout;
    assert!(planned.contains("was planned to be sent"), "{planned}");
    let unplanned = run(&["demo", "-c", "5", "--interval", "0s"]).stdout;
    assert!(!unplanned.contains("planned"), "{unplanned}");
}

#[test]
fn discard_counts_what_the_server_received() {
    let args = [
        "demo",
        "-c",
        "300",
        "--interval",
        "200ms",
        "--discard",
        "--size",
        "1k",
        "--json",
        "-q",
    ];
    let json = run(&args).expect_code(0).json();
    assert_eq!(
        (&json["load"]["sent"], &json["load"]["answered"]),
        (&900.into(), &0.into())
    );
    assert_eq!(json["serve"]["received_bytes"], 900 * 1000);
    assert_eq!(json["lost"], 0);
}

#[test]
fn settings_in_the_environment_are_not_passed_on_by_accident() {
    let mut command = landfall(&["demo", "--interval", "100ms"]);
    let path = format!("{}/demo-result.json", env!("CARGO_TARGET_TMPDIR"));
    command
        .env("LANDFALL_CONNECTIONS", "20")
        .env("LANDFALL_OUTPUT", &path)
        .env("LANDFALL_JSON", "true");
    Running::start(command).finish().expect_code(0);
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(json["load"]["verified"], 60);
}

/// The processes a process has started.
fn children_of(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace()
        .filter_map(|id| Pid::from_raw(id.parse().ok()?))
        .collect()
}

fn wait_for_children(demo: &Running) -> Vec<Pid> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let children = children_of(demo.pid());
        if children.len() == 2 {
            return children;
        }
        assert!(Instant::now() < deadline, "server and client never ran");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_until_gone(processes: &[Pid]) {
    let deadline = Instant::now() + PATIENCE;
    while processes
        .iter()
        .any(|process| test_kill_process(*process).is_ok())
    {
        assert!(Instant::now() < deadline, "still there: {processes:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A demo of many messages, sent a signal in the middle of them.
fn interrupted(flags: &[&str]) -> Outcome {
    let words = "demo -c 100 --messages 1000 --interval 100ms".split(' ');
    let words: Vec<_> = words.chain(flags.iter().copied()).collect();
    let mut demo = Running::start(landfall(&words));
    let children = wait_for_children(&demo);
    demo.stderr_after("sending: ");
    demo.signal(Signal::INT);
    let outcome = demo.finish().expect_code(0);
    wait_until_gone(&children);
    outcome
}

#[test]
fn a_signal_ends_both_processes_and_still_gives_the_result() {
    let json = interrupted(&["--json"]).json();
    assert_eq!(json["interrupted"], true);
    assert_eq!(json["load"]["interrupted"], true);
    assert_eq!(json["load"]["lost"], 0);
}

#[test]
fn a_result_says_whether_a_signal_ended_the_run() {
    let row = |outcome: &Outcome| {
        let mut rows = outcome.stdout.lines();
        let row = rows.find(|line| line.starts_with("interrupted"))?;
        Some(
            row.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    let outcome = interrupted(&[]);
    assert_eq!(row(&outcome).expect("a row"), ["interrupted", "-", "yes"]);
    let flags = ["demo", "-c", "5", "--interval", "10ms"];
    let outcome = run(&flags).expect_code(0);
    assert_eq!(row(&outcome), None);
    let outcome = run(&[&flags[..], &["--json"]].concat()).expect_code(0);
    assert_eq!(outcome.json()["interrupted"], false);
}

#[test]
fn a_signal_at_any_moment_ends_it_in_an_orderly_way() {
    for delay in [0, 5, 10, 20, 40, 80] {
        let demo = Running::start(landfall(&["demo", "-c", "20", "--interval", "100ms"]));
        // Until then the signal would find a process that does not listen to it.
        wait_for_threads(&demo);
        std::thread::sleep(Duration::from_millis(delay));
        demo.signal(Signal::TERM);
        let outcome = demo.finish();
        match outcome.code {
            Some(0) => assert!(outcome.stdout.contains("this machine"), "{outcome:#?}"),
            Some(143) => {
                outcome.expect_message(&["stopped before the run had begun"]);
            }
            _ => panic!("after {delay} ms: {outcome:#?}"),
        }
    }
}

/// Waits for the thread that listens for signals.
fn wait_for_threads(demo: &Running) {
    let tasks = format!("/proc/{}/task", demo.pid().as_raw_nonzero());
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_dir(&tasks).unwrap().count() < 2 {
        assert!(Instant::now() < deadline, "it never listened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn neither_process_outlives_a_demo_that_is_killed() {
    let demo = Running::start(landfall(&["demo", "-c", "100", "--messages", "1000"]));
    let children = wait_for_children(&demo);
    demo.signal(Signal::KILL);
    wait_until_gone(&children);
}

#[test]
fn a_server_that_dies_is_an_error_and_the_client_is_ended() {
    let demo = Running::start(landfall(&["demo", "-c", "100", "--messages", "1000"]));
    let children = wait_for_children(&demo);
    let is_server = |pid: &&Pid| {
        let command =
            std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        command
            .split(|byte| *byte == 0)
            .any(|word| word == b"serve")
    };
    let server = children.iter().find(is_server).expect("one of them serves");
    rustix::process::kill_process(*server, Signal::KILL).unwrap();
    demo.finish()
        .expect_code(1)
        .expect_message(&["`landfall serve` ended in the middle of the run"]);
    wait_until_gone(&children);
}

#[test]
fn impossible_runs_are_refused() {
    run(&["demo", "-c", "0"])
        .expect_code(2)
        .expect_message(&["at least 1"]);
    run(&["demo", "--interval", "3"])
        .expect_code(2)
        .expect_message(&["3ms for milliseconds"]);
}

#[test]
fn what_a_process_of_the_demo_has_said_is_not_said_again() {
    let refusals: [(&[&str], i32, &str); 2] = [
        (&["demo", "--driver", "iocp"], 2, "no driver `iocp`"),
        (&["demo", "-c", "100M"], 4, "100,000,000 connections"),
    ];
    for (words, code, part) in refusals {
        let outcome = run(words).expect_code(code).expect_message(&[part]);
        let errors = outcome.stderr.matches("error:").count();
        assert_eq!(errors, 1, "{outcome:#?}");
        assert!(
            !outcome.stderr.contains("once all are open"),
            "{outcome:#?}"
        );
    }
}

#[test]
fn every_key_of_the_results_is_documented() {
    let readme = include_str!("../README.md");
    let is_documented = |key: &str| {
        let family = ["latency", "send_delay", "connect"]
            .iter()
            .any(|times| key.ends_with("_us") && key.starts_with(&format!("{times}_")));
        family || readme.contains(&format!("`{key}`"))
    };
    let json = run(&["demo", "-c", "5", "--interval", "10ms", "--json", "-q"])
        .expect_code(0)
        .json();
    for result in [&json, &json["load"], &json["serve"]] {
        for key in result.as_object().unwrap().keys() {
            assert!(is_documented(key), "{key} is not in README.md");
        }
    }
}
