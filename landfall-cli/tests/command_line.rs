//! What the command line and the environment say together.

mod support;

#[cfg(target_os = "linux")]
use std::collections::BTreeMap;
use std::net::TcpListener;
#[cfg(target_os = "linux")]
use std::{process::Command, thread};

#[cfg(target_os = "linux")]
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::{Outcome, Running, landfall, run};

/// A load of one connection that nobody answers, whose settings are what matters.
fn load_with(environment: &[(&str, &str)], flags: &[&str]) -> Outcome {
    // Bound and dropped: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let target = nobody.unwrap().to_string();
    let mut command = landfall(&[&["load", &target, "-c", "1"], flags].concat());
    command.envs(environment.iter().copied());
    Running::start(command).finish()
}

#[test]
fn a_flag_wins_over_a_variable_that_contradicts_it() {
    let cases: [(&str, &str, &[&str], &str); 5] = [
        (
            "LANDFALL_LOAD_RATE",
            "100/s",
            &["--interval", "1s"],
            "one every 1s, for 3s",
        ),
        (
            "LANDFALL_INTERVAL",
            "1s",
            &["--rate", "100/s"],
            "100/s over all",
        ),
        ("LANDFALL_MESSAGES", "7", &["--duration", "2s"], "for 2s"),
        (
            "LANDFALL_DURATION",
            "2s",
            &["--messages", "7"],
            "7 messages",
        ),
        ("LANDFALL_QUIET", "yes", &["-v"], "once all are open"),
    ];
    for (variable, value, flags, part) in cases {
        load_with(&[(variable, value)], flags)
            .expect_code(1)
            .expect_message(&[part]);
    }
    let mut command = landfall(&["serve", "127.0.0.1:0", "--discard"]);
    command.env("LANDFALL_ECHO", "true");
    Running::start(command).stdout_after("listening on ");
}

#[test]
fn flags_and_variables_contradict_each_other_only_among_themselves() {
    load_with(&[], &["--rate", "100/s", "--interval", "1s"])
        .expect_code(2)
        .expect_message(&["--interval", "--rate"]);
    load_with(
        &[("LANDFALL_LOAD_RATE", "100/s"), ("LANDFALL_INTERVAL", "1s")],
        &[],
    )
    .expect_code(2)
    .expect_message(&["the environment has: LANDFALL_INTERVAL, LANDFALL_LOAD_RATE"]);
}

#[test]
fn a_switch_in_the_environment_can_be_off() {
    for off in ["0", "false", "no", "off", ""] {
        let outcome = load_with(&[("LANDFALL_JSON", off), ("LANDFALL_QUIET", off)], &[]);
        let outcome = outcome
            .expect_code(1)
            .expect_message(&["once all are open"]);
        assert!(
            outcome.stdout.starts_with("target"),
            "{off:?}: {outcome:#?}"
        );
    }
    for on in ["1", "true", "yes", "on"] {
        let outcome = load_with(&[("LANDFALL_JSON", on)], &[]).expect_code(1);
        assert_eq!(outcome.json()["refused"], 1, "{on}");
    }
}

#[test]
fn a_wrong_value_in_the_environment_is_told_by_its_variable_and_what_that_takes() {
    let cases = [
        (
            ("LANDFALL_JSON", "maybe"),
            "it takes 1, true, yes or on, and 0, false, no or off",
        ),
        (
            ("LANDFALL_DRIVER", "nonsense"),
            "it takes auto, uring, poll or iocp",
        ),
        (
            ("LANDFALL_WORKERS", "many"),
            "`many` is not a count: write a whole number such as 36000, 30k or 1M",
        ),
    ];
    for ((variable, value), reason) in cases {
        let sentence =
            format!("error: invalid value '{value}' for {variable} in the environment: ");
        let outcome = load_with(&[(variable, value)], &[]).expect_code(2);
        outcome.expect_message(&[&(sentence + reason + "\n")]);
    }
    // What is wrong on the command line is no fault of the environment.
    let outcome = load_with(&[("LANDFALL_WORKERS", "2")], &["--rate", "much"]).expect_code(2);
    assert!(!outcome.stderr.contains("environment"), "{outcome:#?}");
}

#[test]
fn an_empty_variable_is_none() {
    load_with(&[("LANDFALL_DRIVER", ""), ("LANDFALL_MESSAGES", "")], &[])
        .expect_code(1)
        .expect_message(&["3 messages"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = there.local_addr().unwrap().port().to_string();
    let rule = format!("127.0.0.1:0=127.0.0.1:{port}");
    for args in [
        &["serve", "127.0.0.1:0"][..],
        &[
            "load",
            &format!("127.0.0.1:{port}"),
            "-c1",
            "--discard",
            "--messages=1",
            "--interval=10ms",
            "--timeout=300ms",
        ],
        &["demo", "-c1", "--messages=1", "--interval=10ms"],
        &["files", "/", "--listen=127.0.0.1:0"],
        &["map", &rule],
        &["scan", "127.0.0.1", "-p", &port],
        &["scan", "127.0.0.1", "-p", &port, "-oX", "-"],
    ] {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "exec \"$0\" \"$@\" >/dev/full",
                env!("CARGO_BIN_EXE_landfall"),
            ])
            .args(args);
        Running::start(command)
            .finish()
            .expect_code(1)
            .expect_message(&["to standard output: No space left on device"]);
    }
}

#[test]
fn a_negative_value_is_called_one() {
    let cases: [(&[&str], &str); 4] = [
        (
            &["load", "127.0.0.1:9", "-c", "-5"],
            "`-5` for '-c' is negative",
        ),
        (
            &["load", "127.0.0.1:9", "--interval", "-1s"],
            "`-1s` for '--interval' is negative",
        ),
        (
            &["serve", "127.0.0.1:0", "--slow", "-5%"],
            "`-5%` for '--slow'",
        ),
        (&["load", "-5"], "`-5` is negative"),
    ];
    for (words, part) in cases {
        let outcome = run(words).expect_code(2).expect_message(&[part]);
        assert!(!outcome.stderr.contains("tip:"), "{outcome:#?}");
    }
    // A word that was mistyped still is.
    run(&["load", "127.0.0.1:9", "--conections", "5"])
        .expect_code(2)
        .expect_message(&["tip:", "--connections"]);
}

#[test]
fn threads_that_the_system_refuses_are_named_as_such() {
    // Room for some stacks (2 MiB each) beside the program, and not for four thousand.
    let command = support::landfall_after(
        "ulimit -v 900000",
        &["serve", "127.0.0.1:0", "--workers", "4000"],
    );
    Running::start(command)
        .finish()
        .expect_code(4)
        .expect_message(&["cannot start a thread", "of the runtime", "fewer workers"]);
}

#[test]
fn a_driver_left_to_a_variable_that_names_none_is_a_mistake() {
    for words in [
        &["serve", "127.0.0.1:0"][..],
        &["load", "127.0.0.1:9", "-c", "1"],
        &["demo", "-c", "1"],
    ] {
        for (value, part) in [
            (
                "nonsense",
                "'nonsense' for LANDFALL_DRIVER in the environment: it takes auto, uring, poll or iocp",
            ),
            (
                "iocp",
                "no driver `iocp` on this system (LANDFALL_DRIVER asks for it)",
            ),
        ] {
            let mut command = landfall(&[words, &["--driver", "auto"]].concat());
            command.env("LANDFALL_DRIVER", value);
            let outcome = Running::start(command).finish().expect_code(2);
            let outcome = outcome.expect_message(&[part]);
            assert_eq!(outcome.stderr.matches("error:").count(), 1, "{outcome:#?}");
        }
    }
}

/// Runs a command where io_uring is forbidden, as under a container's profile.
#[cfg(target_os = "linux")]
fn run_without_io_uring(command: Command) -> Outcome {
    let forbidden = BTreeMap::from([(libc::SYS_io_uring_setup, vec![])]);
    let forbid = SeccompAction::Errno(libc::EPERM as u32);
    let processor = std::env::consts::ARCH.try_into().expect("a known one");
    let filter = SeccompFilter::new(forbidden, SeccompAction::Allow, forbid, processor);
    let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    // What a thread starts is bound by the thread's filter.
    let thread = thread::spawn(move || {
        seccompiler::apply_filter(&program).expect("a thread may restrict itself");
        Running::start(command).finish()
    });
    thread.join().expect("it runs")
}

#[cfg(target_os = "linux")]
#[test]
fn a_driver_that_the_system_forbids_is_refused_naming_who_asked_for_it() {
    for words in [&["serve", "127.0.0.1:0"][..], &["demo", "-c", "1"]] {
        for flags in [&[][..], &["--driver", "auto"]] {
            let mut command = landfall(&[words, flags].concat());
            command.env("LANDFALL_DRIVER", "uring");
            run_without_io_uring(command)
                .expect_code(1)
                .expect_message(&["LANDFALL_DRIVER asks for `uring`", "permit it"]);
        }
        let by_flag = landfall(&[words, &["--driver", "uring"]].concat());
        let outcome = run_without_io_uring(by_flag).expect_code(1);
        assert!(!outcome.stderr.contains("LANDFALL_DRIVER"), "{outcome:#?}");
    }
}

#[test]
fn both_processes_of_a_demo_have_the_driver_that_the_variable_asks_for() {
    for flags in [&[][..], &["--driver", "auto"]] {
        let words = ["demo", "-c", "1", "--interval", "10ms", "--json"];
        let mut command = landfall(&[&words, flags].concat());
        command.env("LANDFALL_DRIVER", "poll");
        let json = Running::start(command).finish().expect_code(0).json();
        for process in [&json["serve"], &json["load"]] {
            assert_eq!(process["driver"], "poll", "{json:#}");
            assert_eq!(process["driver_reason"], "LANDFALL_DRIVER asks for it");
        }
    }
}

#[test]
fn a_driver_that_this_system_lacks_is_refused_naming_who_asked_for_it() {
    load_with(&[("LANDFALL_DRIVER", "iocp")], &[])
        .expect_code(2)
        .expect_message(&["no driver `iocp`", "LANDFALL_DRIVER"]);
    let mut demo = landfall(&["demo", "-c", "1"]);
    demo.env("LANDFALL_DRIVER", "iocp");
    let outcome = Running::start(demo).finish().expect_code(2);
    let outcome = outcome.expect_message(&["LANDFALL_DRIVER asks for it"]);
    assert_eq!(outcome.stderr.matches("error:").count(), 1, "{outcome:#?}");
    let by_flag = load_with(&[], &["--driver", "iocp"]).expect_code(2);
    assert!(!by_flag.stderr.contains("LANDFALL_DRIVER"), "{by_flag:#?}");
}

#[test]
fn an_output_that_cannot_be_created_is_a_mistake_seen_before_the_run() {
    let missing = format!("{}/no/such/directory/file", env!("CARGO_TARGET_TMPDIR"));
    let folder = env!("CARGO_TARGET_TMPDIR");
    for output in [missing.as_str(), folder] {
        for words in [
            &["load", "127.0.0.1:9", "-c", "1"][..],
            &["demo", "-c", "1"],
            &["serve", "127.0.0.1:0"],
        ] {
            let outcome = run(&[words, &["-o", output]].concat())
                .expect_code(2)
                .expect_message(&["-o", output]);
            assert_eq!(outcome.stdout, "", "{outcome:#?}");
        }
    }
    run(&["load", "127.0.0.1:9", "-c", "1", "-o", &missing])
        .expect_message(&["there is no such directory"]);
}

#[test]
fn every_help_has_examples_and_the_exit_codes() {
    for words in [
        &["--help"][..],
        &["serve", "--help"],
        &["load", "--help"],
        &["demo", "--help"],
        &["demo", "-h"],
    ] {
        let help = run(words).expect_code(0).stdout;
        assert!(help.contains("\nExamples:\n  landfall "), "{help}");
        assert!(help.contains("\nExit codes: 0 done, 1 failed, "), "{help}");
    }
}
