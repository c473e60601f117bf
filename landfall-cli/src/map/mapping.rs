//! A rule that is in force.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::access::{AccessList, Refusal, SourceGuard, Sources};
use super::args::{SendProxy, Settings, Splicing};
use super::health::Change;
use super::rule::RuleText;
use super::targets::{Counters, Target, Targets};
use crate::system::HAS_ZERO_COPY;

/// A rule as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the log calls it: its name in the file, or where it listens.
    pub name: String,
    /// Where it listens, and where to.
    pub text: RuleText,
    /// What it is like.
    pub settings: Settings,
}

impl Rule {
    /// Refuses settings that do not go together.
    pub fn check(&self) -> Result<(), String> {
        let settings = &self.settings;
        let has_proxy = settings.accept_proxy || settings.send_proxy != SendProxy::None;
        let is_zero = |limit: Option<std::time::Duration>| limit.is_some_and(|time| time.is_zero());
        let problem = match () {
            () if settings.udp && has_proxy => {
                "the PROXY protocol is for TCP here: leave out --udp, or the protocol"
            }
            () if settings.udp && settings.check => {
                "--check connects, which is for TCP: leave out --udp, or the checks"
            }
            () if settings.zero_copy == Splicing::On && !HAS_ZERO_COPY => {
                "--zero-copy on cannot be had on this system: leave it to `auto`"
            }
            () if settings.udp_timeout.is_zero() => {
                "--udp-timeout 0s leaves clients no time at all: give them some, as in 60s"
            }
            () if settings.accept_proxy && settings.proxy_from.is_empty() => {
                "--accept-proxy believes proxies in --proxy-from only: name their networks"
            }
            () if !settings.accept_proxy && !settings.proxy_from.is_empty() => {
                "--proxy-from says whom --accept-proxy is to believe: give that as well"
            }
            () if is_zero(settings.idle_timeout.0) || is_zero(settings.half_close_timeout.0) => {
                "a timeout of 0s leaves clients no time at all: give them some, as in 10m, or `none`"
            }
            () if settings.connect_timeout.is_zero() || settings.proxy_timeout.is_zero() => {
                "a timeout of 0s leaves no time at all: give some, as in 5s"
            }
            () if settings.check_interval.is_zero() || is_zero(settings.resolve_every.0) => {
                "an interval of 0s would leave no time for anything else: give some, as in 2s"
            }
            () if settings.resolve_later && settings.resolve_every.0.is_none() => {
                "--resolve-later asks again at --resolve-every: give that a time, as in 30s"
            }
            () => return Ok(()),
        };
        Err(format!("{}: {problem}", self.name))
    }
}

/// A rule with its targets and what they have done.
#[derive(Debug)]
pub struct Mapping {
    /// What was asked for.
    pub rule: Rule,
    access: AccessList,
    /// Connections of each source.
    sources: Sources,
    /// Where to.
    pub targets: Targets,
    /// What all of it has done.
    pub counters: Arc<Counters>,
    is_retired: AtomicBool,
}

impl Mapping {
    /// Finds the targets of a rule. What it has in common with an old one goes on.
    pub fn new(rule: Rule, old: Option<&Self>) -> Result<Self, String> {
        rule.check()?;
        let settings = &rule.settings;
        let targets = Targets::find(
            &rule.text.targets,
            settings,
            old.map(|mapping| &mapping.targets),
        )
        .map_err(|reason| format!("{}: {reason}", rule.name))?;
        Ok(Self {
            access: AccessList {
                allow: settings.allow.clone(),
                deny: settings.deny.clone(),
            },
            sources: old.map(|old| old.sources.clone()).unwrap_or_default(),
            targets,
            counters: old.map(|old| Arc::clone(&old.counters)).unwrap_or_default(),
            is_retired: AtomicBool::new(false),
            rule,
        })
    }

    /// What it is like.
    pub fn settings(&self) -> &Settings {
        &self.rule.settings
    }

    /// Lets a client in, if it may connect and has not too many connections.
    pub fn admit(&self, client: IpAddr) -> Result<SourceGuard, Refusal> {
        self.access.check(client)?;
        let most = self.settings().max_conns_per_source.0;
        let entered = self.sources.enter(client, most);
        entered.ok_or(Refusal::TooMany(most.unwrap_or(u32::MAX)))
    }

    /// A check of a target has ended. If another rule has taken this one's place meanwhile, that says
    /// nothing any more.
    pub fn checked(&self, target: &Target, is_good: bool) -> Option<Change> {
        target.checked(is_good, self.settings(), || !self.is_retired())
    }

    /// Another one has taken its place. Its connections go on.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// Whether another one has.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::rule::parse_rule;
    use super::*;
    use crate::map::test_settings;

    #[test]
    fn a_check_that_outlasts_its_rule_says_nothing_of_the_target() {
        let rule = Rule {
            name: String::from("test"),
            text: parse_rule("127.0.0.1:0=127.0.0.1:1").unwrap().remove(0),
            settings: Settings {
                check: true,
                check_fall: 1,
                ..test_settings()
            },
        };
        let old = Mapping::new(rule.clone(), None).unwrap();
        let target = old.targets.iter().next().unwrap();
        assert_eq!(old.checked(target, false), Some(Change::Down));
        let mut unchecked = rule;
        unchecked.settings.check = false;
        let new = Mapping::new(unchecked, Some(&old)).unwrap();
        old.retire();
        new.targets.uncheck();
        assert_eq!(old.checked(target, false), None);
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(new.targets.pick(client, &[]).is_some());
    }
}
