//! What goes on beside the connections of a rule: checks of its targets, and their names asked for
//! again.

use std::sync::Arc;
use std::time::Duration;

use landfall::runtime;
use landfall::runtime::time::sleep;

use super::connect::connect_to;
use super::control::Control;
use super::mapping::Mapping;
use super::targets::Target;

/// The most time between two questions for a name that has no address yet.
const SOON: Duration = Duration::from_secs(2);

/// Starts what a rule asks for. It ends when another one has taken the rule's place.
pub fn watch(control: &Arc<Control>, mapping: &Arc<Mapping>) {
    let settings = mapping.settings();
    if !settings.check {
        mapping.targets.uncheck();
    }
    for target in mapping.targets.iter() {
        let with = || (Arc::clone(control), Arc::clone(mapping), Arc::clone(target));
        if settings.check {
            let (control, mapping, target) = with();
            drop(runtime::spawn(check(control, mapping, target)));
        }
        if let Some(period) = settings.resolve_every.0.filter(|_| target.is_named()) {
            let (control, mapping, target) = with();
            drop(runtime::spawn(look_up(control, mapping, target, period)));
        }
    }
}

/// Connects to a target again and again.
async fn check(control: Arc<Control>, mapping: Arc<Mapping>, target: Arc<Target>) {
    let settings = mapping.settings();
    while !mapping.is_retired() {
        let time = settings.check_interval.min(settings.connect_timeout);
        let checked = connect_to(&control, &target.addresses(), time, None).await;
        let change = mapping.checked(&target, checked.is_ok());
        match checked {
            Ok(_) => control.tell(&mapping, &target, change, "it can be connected to"),
            Err(error) => control.tell(&mapping, &target, change, error),
        }
        sleep(settings.check_interval).await;
    }
}

/// Asks for a target's addresses again and again. It may block, which the port covers.
async fn look_up(
    control: Arc<Control>,
    mapping: Arc<Mapping>,
    target: Arc<Target>,
    period: Duration,
) {
    let name = format!("target {}/{}", mapping.rule.name, target.name);
    let mut has_failed = false;
    loop {
        let is_unknown = target.addresses().is_empty();
        // What the start did not find is asked for once more, to say why.
        match is_unknown {
            false => sleep(period).await,
            true if has_failed => sleep(period.min(SOON)).await,
            true => {}
        }
        if mapping.is_retired() {
            return;
        }
        let found = target.look_up();
        // Told once, not every time.
        let is_news = !has_failed;
        has_failed = found.is_err();
        let said = match found {
            Ok(Some(addresses)) if is_unknown => format!("has addresses now: {addresses:?}"),
            Ok(Some(addresses)) => format!("has other addresses now: {addresses:?}"),
            Err(error) if is_news && is_unknown => {
                format!("has no address yet, and is not used: {error}")
            }
            Err(error) if is_news => format!("keeps the addresses it had: {error}"),
            Ok(None) | Err(_) => continue,
        };
        control.messages.note(format_args!("{name} {said}"));
    }
}
