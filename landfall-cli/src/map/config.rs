//! The rules from the command line and from the file of `--config`.
//!
//! ```toml
//! balance = "least-connections"        # for all rules of the file
//!
//! [[map]]
//! name = "web"
//! listen = "0.0.0.0:80"
//! targets = ["10.0.0.1:8080*3", "10.0.0.2:8080"]
//! idle-timeout = "1m"                  # for this one
//! ```

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use clap::{ArgAction, Args, Command, ValueEnum};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::access::parse_network;
use super::args::{MapArgs, SendProxy, Settings, Splicing};
use super::balance::Balance;
use super::mapping::Rule;
use super::rule::{Ports, RuleText, expand, parse_rule};
use crate::metrics::{MetricsArgs, parse_address};
use crate::units::{Limit, parse_count, parse_time};

/// What the command line and the file say together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Where metrics are to be had. The only part that a reload does not change.
    pub metrics: MetricsArgs,
    /// Connections of all rules together.
    pub max_conns: Option<u32>,
    /// How long connections may take to finish.
    pub drain_timeout: Duration,
}

/// Reads all there is, and checks it as far as that goes without the network.
pub fn read_all(args: &MapArgs) -> Result<Config, String> {
    let mut rules = Vec::new();
    let mut process = Process::default();
    for text in &args.rules {
        let texts = parse_rule(text)?;
        rules.extend(texts.into_iter().map(|text| Rule {
            name: text.listen.clone(),
            text,
            settings: args.settings.clone(),
        }));
    }
    if let Some(path) = &args.config.0 {
        let file = read_file(path, &args.settings)?;
        rules.extend(file.0);
        process = file.1;
    }
    if rules.is_empty() {
        return Err(match &args.config.0 {
            Some(path) => format!(
                "{} has no rule: write [[map]] with listen and targets",
                path.display()
            ),
            None => String::from(
                "no rule: write LISTEN=TARGET, as in 127.0.0.1:9000=127.0.0.1:7000, or name a \
                 file of rules with --config",
            ),
        });
    }
    rules.iter().try_for_each(Rule::check)?;
    let mut metrics = args.metrics.clone();
    metrics.metrics = process.metrics.unwrap_or(metrics.metrics);
    Ok(Config {
        rules,
        metrics,
        max_conns: process.max_conns.unwrap_or(args.max_conns).0,
        drain_timeout: process.drain_timeout.unwrap_or(args.drain_timeout),
    })
}

fn read_file(path: &Path, settings: &Settings) -> Result<(Vec<Rule>, Process), String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read --config {shown}: {error}"))?;
    parse_file(&text, settings).map_err(|problem| format!("{shown}: {problem}"))
}

fn parse_file(text: &str, settings: &Settings) -> Result<(Vec<Rule>, Process), String> {
    let mistake = |mistake: Mistake| mistake.shown(text);
    let mut table =
        DeTable::parse(text).map_err(|error| mistake(Mistake::of_toml(&error, text)))?;
    let keys = Keys::of_settings();
    let at_the_top = [&["map"], &OF_THE_PROCESS[..]].concat();
    keys.check(table.get_ref(), &at_the_top).map_err(mistake)?;
    let maps = match table.get_mut().remove_entry("map") {
        None => Vec::new(),
        Some((key, maps)) => match maps.into_inner() {
            DeValue::Array(maps) => maps.into_iter().collect(),
            _ => return Err(mistake(Mistake::at(&key, TWO_BRACKETS))),
        },
    };
    let process = part(table.get_mut(), &OF_THE_PROCESS);
    let process = read(Spanned::new(table.span(), process)).map_err(mistake)?;
    let settings = overridden(settings, table).map_err(mistake)?;
    let mut names = HashMap::new();
    let rules = maps
        .into_iter()
        .map(|map| parse_map(map, &keys, &settings, &mut names));
    let rules = rules.collect::<Result<Vec<_>, _>>().map_err(mistake)?;
    Ok((rules.concat(), process))
}

/// Takes some keys out of a table.
fn part<'a>(table: &mut DeTable<'a>, keys: &[&str]) -> DeTable<'a> {
    let taken = keys.iter().filter_map(|key| table.remove_entry(*key));
    taken.collect()
}

/// For `[map]`, be it there once or several times.
const TWO_BRACKETS: &str = "rules are written as [[map]], in two brackets";

/// What a rule of the file has beside settings.
const OF_A_RULE: [&str; 3] = ["name", "listen", "targets"];

/// What the file has for all rules together.
const OF_THE_PROCESS: [&str; 3] = ["metrics", "max-conns", "drain-timeout"];

/// Names more alike than this (from 0 to 1) are taken for one another. With the 0.7 of clap, `x` is `max-fails`.
const ALIKE: f64 = 0.75;

/// The keys that settings have, from their flags.
struct Keys {
    all: Vec<String>,
    lists: Vec<String>,
}

impl Keys {
    fn of_settings() -> Self {
        let settings = Settings::augment_args(Command::new("settings"));
        let long = |arg: &clap::Arg| arg.get_long().unwrap_or_default().to_owned();
        let is_list = |arg: &&clap::Arg| matches!(arg.get_action(), ArgAction::Append);
        let lists = settings.get_arguments().filter(is_list).map(long);
        Self {
            all: settings.get_arguments().map(long).collect(),
            lists: lists.chain([String::from("targets")]).collect(),
        }
    }

    /// Refuses keys of a table that are neither of settings nor among these, and a text where there is
    /// to be a list.
    fn check(&self, table: &DeTable<'_>, others: &[&str]) -> Result<(), Mistake> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let known = self
                .all
                .iter()
                .map(String::as_str)
                .chain(others.iter().copied());
            if !known.clone().any(|known| known == name) {
                return Err(Mistake::at(key, unknown(name, known)));
            }
            if let (DeValue::String(text), true) =
                (value.get_ref(), self.lists.iter().any(|key| key == name))
            {
                let items: Vec<_> = text.split(',').map(str::trim).collect();
                return Err(Mistake {
                    key: Some(name.to_owned()),
                    ..Mistake::at(value, format!("it is a list: write {name} = {items:?}"))
                });
            }
        }
        Ok(())
    }
}

/// What to do about a key that is not among those known.
fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if OF_A_RULE.contains(&name) {
        return format!("`{name}` is for a rule: write [[map]] on a line before it");
    }
    if name == "map" {
        return String::from("`map` is a rule, and is not in another one");
    }
    if OF_THE_PROCESS.contains(&name) {
        return format!("`{name}` is for all rules together: write it before the first [[map]]");
    }
    let flags = MapArgs::augment_args(Command::new("map"));
    if flags
        .get_arguments()
        .any(|arg| arg.get_long() == Some(name))
    {
        return format!(
            "`{name}` is no matter of the file, and stays as it is at the start: give --{name}"
        );
    }
    let likeness = |known: &&str| strsim::jaro(name, known);
    let near = known
        .clone()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match near.filter(|near| likeness(near) > ALIKE) {
        Some(near) => format!("unknown key `{name}`: did you mean `{near}`?"),
        None => format!(
            "unknown key `{name}`: there are {}, and the flags of a rule without their dashes \
             (landfall map --help)",
            match known.clone().any(|known| known == "map") {
                true => format!("map, {}", OF_THE_PROCESS.join(", ")),
                false => OF_A_RULE.join(", "),
            }
        ),
    }
}

/// Something in the file that is wrong.
#[derive(Debug)]
struct Mistake {
    /// Where, in bytes.
    start: usize,
    /// The key it is the value of, if it is one.
    key: Option<String>,
    problem: String,
}

impl Mistake {
    fn at<T>(place: &Spanned<T>, problem: impl Into<String>) -> Self {
        Self {
            start: place.span().start,
            key: None,
            problem: problem.into(),
        }
    }

    fn of_toml(error: &toml::de::Error, text: &str) -> Self {
        let mistake = Self::from(error.clone());
        let line = text[..mistake.start].rfind('\n').map_or(0, |end| end + 1);
        match text[line..].trim_start().starts_with("[map]") {
            true => Self {
                problem: String::from(TWO_BRACKETS),
                ..mistake
            },
            false => mistake,
        }
    }

    /// Names the key among these that it belongs to.
    fn among(mut self, keys: &[(String, Range<usize>)]) -> Self {
        let own = keys.iter().find(|(_, value)| value.contains(&self.start));
        self.key = own.map(|(key, _)| key.clone());
        self
    }

    fn shown(self, text: &str) -> String {
        let line = 1 + text
            .bytes()
            .take(self.start)
            .filter(|byte| *byte == b'\n')
            .count();
        let key = self.key.map(|key| format!(", {key}")).unwrap_or_default();
        format!("line {line}{key}: {}", self.problem.replace('\n', ", "))
    }
}

impl From<toml::de::Error> for Mistake {
    fn from(error: toml::de::Error) -> Self {
        Self {
            start: error.span().unwrap_or_default().start,
            key: None,
            problem: error.message().to_owned(),
        }
    }
}

/// Reads a table, each value for a key.
fn read<'de, T: Deserialize<'de>>(table: Spanned<DeTable<'de>>) -> Result<T, Mistake> {
    let entries = table.get_ref().iter();
    let keys: Vec<_> = entries
        .map(|(key, value)| (key.get_ref().to_string(), value.span()))
        .collect();
    T::deserialize(toml::Deserializer::from(table))
        .map_err(|error| Mistake::from(error).among(&keys))
}

/// What a rule of the file has beside settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: Option<Spanned<String>>,
    listen: Spanned<String>,
    targets: Spanned<Vec<String>>,
}

/// Reads a rule. With those before it, it has its name for itself; `names` says where those listen.
fn parse_map(
    map: Spanned<DeValue<'_>>,
    keys: &Keys,
    settings: &Settings,
    names: &mut HashMap<String, String>,
) -> Result<Vec<Rule>, Mistake> {
    let span = map.span();
    let DeValue::Table(mut rest) = map.into_inner() else {
        let problem = "rules are written as [[map]], each one a table";
        return Err(Mistake::at(&Spanned::new(span, ()), problem));
    };
    keys.check(&rest, &OF_A_RULE)?;
    let head = part(&mut rest, &OF_A_RULE);
    let head: Head = read(Spanned::new(span.clone(), head))?;
    let settings = overridden(settings, Spanned::new(span, rest))?;
    let of_key = |key: &str, start, problem| Mistake {
        start,
        key: Some(key.to_owned()),
        problem,
    };
    let listen = Ports::parse(head.listen.get_ref())
        .map_err(|problem| of_key("listen", head.listen.span().start, problem))?;
    let texts = expand(&listen, head.targets.get_ref())
        .map_err(|problem| of_key("targets", head.targets.span().start, problem))?;
    if let Some(name) = &head.name {
        check_name(name.get_ref(), head.listen.get_ref(), names)
            .map_err(|problem| of_key("name", name.span().start, problem))?;
    }
    let is_one = texts.len() == 1;
    let rule = |text: RuleText| Rule {
        name: match &head.name {
            Some(name) if is_one => name.get_ref().clone(),
            // One rule of many: its port tells it from the others.
            Some(name) => format!("{}@{}", name.get_ref(), text.listen),
            None => text.listen.clone(),
        },
        text,
        settings: settings.clone(),
    };
    Ok(texts.into_iter().map(rule).collect())
}

/// Refuses a name that would leave lines in the log that cannot be told apart, or into parts.
fn check_name(name: &str, listen: &str, names: &mut HashMap<String, String>) -> Result<(), String> {
    if name.is_empty() || name.contains(|char: char| char.is_whitespace() || char.is_control()) {
        return Err(format!(
            "{name:?} of the rule on {listen} would break the lines of the log, whose parts are \
             between spaces: write a name without any, as in my-web"
        ));
    }
    match names.insert(name.to_owned(), listen.to_owned()) {
        Some(other) => Err(format!(
            "the rules on {other} and {listen} are both named {name}, and could not be told apart \
             in the log: give one of them another name"
        )),
        None => Ok(()),
    }
}

fn overridden(settings: &Settings, table: Spanned<DeTable<'_>>) -> Result<Settings, Mistake> {
    let overrides: Overrides = read(table)?;
    Ok(overrides.over(settings.clone()))
}

/// What the file says for all rules together.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Process {
    #[serde(deserialize_with = "address_limit")]
    metrics: Option<Limit<String>>,
    #[serde(deserialize_with = "count_limit")]
    max_conns: Option<Limit<u32>>,
    #[serde(deserialize_with = "time")]
    drain_timeout: Option<Duration>,
}

/// Settings that the file has.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Overrides {
    udp: Option<bool>,
    balance: Option<Balance>,
    #[serde(deserialize_with = "time")]
    connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "time_limit")]
    idle_timeout: Option<Limit<Duration>>,
    #[serde(deserialize_with = "time_limit")]
    half_close_timeout: Option<Limit<Duration>>,
    zero_copy: Option<Splicing>,
    #[serde(deserialize_with = "time")]
    udp_timeout: Option<Duration>,
    #[serde(deserialize_with = "count")]
    udp_sessions: Option<u32>,
    #[serde(deserialize_with = "count_limit")]
    max_conns_per_source: Option<Limit<u32>>,
    #[serde(deserialize_with = "networks")]
    allow: Option<Vec<IpNet>>,
    #[serde(deserialize_with = "networks")]
    deny: Option<Vec<IpNet>>,
    #[serde(deserialize_with = "version")]
    send_proxy: Option<SendProxy>,
    accept_proxy: Option<bool>,
    #[serde(deserialize_with = "networks")]
    proxy_from: Option<Vec<IpNet>>,
    #[serde(deserialize_with = "time")]
    proxy_timeout: Option<Duration>,
    #[serde(deserialize_with = "count")]
    max_fails: Option<u32>,
    #[serde(deserialize_with = "time")]
    fail_timeout: Option<Duration>,
    check: Option<bool>,
    #[serde(deserialize_with = "time")]
    check_interval: Option<Duration>,
    #[serde(deserialize_with = "count")]
    check_rise: Option<u32>,
    #[serde(deserialize_with = "count")]
    check_fall: Option<u32>,
    #[serde(deserialize_with = "time_limit")]
    resolve_every: Option<Limit<Duration>>,
    resolve_later: Option<bool>,
}

impl Overrides {
    fn over(self, base: Settings) -> Settings {
        Settings {
            udp: self.udp.unwrap_or(base.udp),
            balance: self.balance.unwrap_or(base.balance),
            connect_timeout: self.connect_timeout.unwrap_or(base.connect_timeout),
            idle_timeout: self.idle_timeout.unwrap_or(base.idle_timeout),
            half_close_timeout: self.half_close_timeout.unwrap_or(base.half_close_timeout),
            zero_copy: self.zero_copy.unwrap_or(base.zero_copy),
            udp_timeout: self.udp_timeout.unwrap_or(base.udp_timeout),
            udp_sessions: self.udp_sessions.unwrap_or(base.udp_sessions),
            max_conns_per_source: self
                .max_conns_per_source
                .unwrap_or(base.max_conns_per_source),
            allow: self.allow.unwrap_or(base.allow),
            deny: self.deny.unwrap_or(base.deny),
            send_proxy: self.send_proxy.unwrap_or(base.send_proxy),
            accept_proxy: self.accept_proxy.unwrap_or(base.accept_proxy),
            proxy_from: self.proxy_from.unwrap_or(base.proxy_from),
            proxy_timeout: self.proxy_timeout.unwrap_or(base.proxy_timeout),
            max_fails: self.max_fails.unwrap_or(base.max_fails),
            fail_timeout: self.fail_timeout.unwrap_or(base.fail_timeout),
            check: self.check.unwrap_or(base.check),
            check_interval: self.check_interval.unwrap_or(base.check_interval),
            check_rise: self.check_rise.unwrap_or(base.check_rise),
            check_fall: self.check_fall.unwrap_or(base.check_fall),
            resolve_every: self.resolve_every.unwrap_or(base.resolve_every),
            resolve_later: self.resolve_later.unwrap_or(base.resolve_later),
        }
    }
}

/// A value written as a text or as a number, such as `"30k"` and `30000`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a number")]
enum Word {
    Text(String),
    Number(i64),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// Reads a value as the command line does.
fn word<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let word = Word::deserialize(deserializer)?;
    read(&word.to_string()).map(Some).map_err(D::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    word(deserializer, parse_time)
}

fn time_limit<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Limit<Duration>>, D::Error> {
    word(deserializer, Limit::parser(parse_time))
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    word(deserializer, parse_count)
}

fn count_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<u32>>, D::Error> {
    word(deserializer, Limit::parser(parse_count))
}

fn address_limit<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Limit<String>>, D::Error> {
    word(deserializer, Limit::parser(parse_address))
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SendProxy>, D::Error> {
    word(deserializer, |text| {
        SendProxy::from_str(text, false)
            .map_err(|_| format!("`{text}` is no version: write 1, 2 or \"none\""))
    })
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| parse_network(text))
        .collect::<Result<_, _>>()
        .map(Some)
        .map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::test_settings;

    fn parse(text: &str) -> Result<Vec<Rule>, String> {
        parse_file(text, &test_settings()).map(|(rules, _)| rules)
    }

    #[test]
    fn metrics_are_for_the_whole_file() {
        let process = |text: &str| parse_file(text, &test_settings()).map(|(_, process)| process);
        let metrics = |text: &str| process(text).map(|process| process.metrics);
        let at = |address: &str| Ok(Some(Limit(Some(address.to_owned()))));
        assert_eq!(
            metrics("metrics = \"127.0.0.1:9100\""),
            at("127.0.0.1:9100")
        );
        assert_eq!(metrics("metrics = \"none\""), Ok(Some(Limit(None))));
        assert_eq!(metrics(""), Ok(None));
        for (text, reason) in [
            (
                "\nmetrics = 9100",
                "line 2, metrics: `9100` is not HOST:PORT: write 127.0.0.1:9100",
            ),
            (
                "metrics = \"[::1]\"",
                "line 1, metrics: `[::1]` is not HOST:PORT",
            ),
            (
                "[[map]]\nmetrics = \"127.0.0.1:1\"",
                "line 2: `metrics` is for all rules together",
            ),
        ] {
            let refusal = metrics(text).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn the_file_has_what_is_for_all_rules_together() {
        let text = "max-conns = \"2k\"\ndrain-timeout = \"5s\"\nidle-timeout = \"1m\"";
        let process = parse_file(text, &test_settings()).map(|(_, process)| process);
        let process = process.unwrap();
        assert_eq!(process.max_conns, Some(Limit(Some(2_000))));
        assert_eq!(process.drain_timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_rule_wins_over_the_file_and_the_file_over_flags() {
        let rules = parse(
            r#"
            balance = "least-connections"
            idle-timeout = "1m"
            max-conns-per-source = 30
            [[map]]
            name = "web"
            listen = "127.0.0.1:80"
            targets = ["127.0.0.1:8080*3", "127.0.0.1:8081"]
            idle-timeout = "none"
            allow = ["10.0.0.0/8", "127.0.0.1"]
            send-proxy = 2
            [[map]]
            listen = "127.0.0.1:90-91"
            targets = ["127.0.0.1:9090"]
            "#,
        )
        .unwrap();
        let names: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["web", "127.0.0.1:90", "127.0.0.1:91"]);
        let web = &rules[0].settings;
        assert_eq!(web.idle_timeout, Limit(None));
        assert_eq!(web.balance, Balance::LeastConnections);
        assert_eq!(web.send_proxy, SendProxy::Two);
        assert_eq!(web.allow.len(), 2);
        assert_eq!(rules[0].text.targets[0].weight, 3);
        let other = &rules[2].settings;
        assert_eq!(other.idle_timeout, Limit(Some(Duration::from_secs(60))));
        assert_eq!(other.max_conns_per_source, Limit(Some(30)));
        assert_eq!(other.connect_timeout, test_settings().connect_timeout);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rule = |line: &str| {
            format!("[[map]]\nlisten = \"127.0.0.1:80\"\ntargets = [\"127.0.0.1:8080\"]\n{line}")
        };
        let wrong = [
            (
                String::from("\nmap = 3"),
                "line 2: rules are written as [[map]]",
            ),
            (
                String::from("map = [3]"),
                "line 1: rules are written as [[map]]",
            ),
            (
                String::from("\n[[map]]\ntargets = []"),
                "line 2: missing field `listen`",
            ),
            (String::from("\n[[map]\n"), "line 2: "),
            (rule("idle-timeout = 5"), "line 4, idle-timeout: "),
            (rule("idle-timeout = 5"), "5s for seconds"),
            (
                rule("idle-timeuot = \"5s\""),
                "line 4: unknown key `idle-timeuot`: did you mean `idle-timeout`?",
            ),
            (
                String::from("\n[map]\n[map]\n"),
                "line 3: rules are written as [[map]]",
            ),
            (
                rule("").replace("targets", "target"),
                "line 3: unknown key `target`: did you mean `targets`?",
            ),
            (
                rule("").replace("[[map]]", "[[maps]]"),
                "line 1: unknown key `maps`: did you mean `map`?",
            ),
            (
                String::from("\nlisten = \"127.0.0.1:80\""),
                "line 2: `listen` is for a rule: write [[map]]",
            ),
            (
                rule("zzz = 1"),
                "line 4: unknown key `zzz`: there are name, listen, targets, and",
            ),
            (String::from("zzz = 1"), "unknown key `zzz`: there are map,"),
            (
                rule("drain-timeout = \"5s\""),
                "line 4: `drain-timeout` is for all rules together: write it before the first",
            ),
            (String::from("max-conns = 0"), "line 1, max-conns: "),
            (
                String::from("workers = 2"),
                "line 1: `workers` is no matter of the file, and stays as it is at the start: give",
            ),
            (String::from("driver = \"poll\""), "give --driver"),
            (String::from("quiet = true"), "give --quiet"),
            (
                rule("").replace("[\"127.0.0.1:8080\"]", "\"a:1, b:2\""),
                "line 3, targets: it is a list: write targets = [\"a:1\", \"b:2\"]",
            ),
            (
                String::from("allow = \"10.0.0.0/8\""),
                "line 1, allow: it is a list: write allow = [\"10.0.0.0/8\"]",
            ),
            (
                rule("send-proxy = 3"),
                "line 4, send-proxy: `3` is no version",
            ),
            (
                rule("allow = [\"10\"]"),
                "line 4, allow: `10` is no network",
            ),
            (rule("max-fails = 0"), "line 4, max-fails: "),
            (
                rule("udp = 1"),
                "line 4, udp: invalid type: integer `1`, expected a boolean",
            ),
            (rule("targets = []"), "line 4: duplicate key"),
            (
                rule("name = \"a\"\n") + &rule("name = \"a\"").replace(":80\"", ":81\""),
                "line 8, name: the rules on 127.0.0.1:80 and 127.0.0.1:81 are both named a,",
            ),
            (
                rule("name = \"my web\""),
                "line 4, name: \"my web\" of the rule on 127.0.0.1:80 would break",
            ),
            (rule("name = \"\""), "line 4, name: "),
            (
                rule("").replace("[\"127.0.0.1:8080\"]", "[]"),
                "line 3, targets: ",
            ),
            (
                rule("").replace(":8080", ""),
                "line 3, targets: `127.0.0.1` is not HOST:PORT",
            ),
            (rule("").replace(":80\"", ":80-79\""), "line 2, listen: "),
            (
                rule("balance = \"fair\""),
                "line 4, balance: unknown variant `fair`",
            ),
            (String::from("balance = \"fair\""), "line 1, balance: "),
        ];
        for (text, reason) in wrong {
            let refusal = parse(&text).unwrap_err();
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
    }
}
