//! Ports, targets and lists of services as they are typed or read from files: no text makes a reader
//! panic, a set of ports can be read again as it is shown, and a set of addresses contains what it
//! lists.
#![no_main]

use libfuzzer_sys::fuzz_target;

macro_rules! of_the_tool {
    ($name:ident, $path:literal) => {
        #[path = $path]
        #[allow(
            dead_code,
            unused_imports,
            reason = "the tool's own; a part is used here"
        )]
        mod $name;
    };
}

of_the_tool!(ports, "../../landfall-cli/src/scan/ports.rs");
of_the_tool!(services, "../../landfall-cli/src/system/services.rs");
of_the_tool!(targets, "../../landfall-cli/src/scan/targets.rs");
of_the_tool!(top, "../../landfall-cli/src/scan/top.rs");

/// Where the tool has it.
mod system {
    pub(crate) use crate::services;
}

use ports::PortSet;
use services::Services;
use targets::Target;

fuzz_target!(|text: &str| {
    let list = "ssh 22/tcp\nhttp 80/tcp www\nhttp-alt 8080/tcp\nx11-1 6001/tcp\n";
    let services = Services::parse(list);
    if let Ok(ports) = PortSet::parse(text, &services) {
        assert!(!ports.contains(0));
        let again = PortSet::parse(&ports.show(), &services);
        assert!(ports.len() == 0 || again == Ok(ports));
    }
    for word in targets::words_of_list(text) {
        let Ok(Target::Addresses(set)) = Target::parse(word) else {
            continue;
        };
        for index in [0, set.len() / 2, set.len() - 1] {
            assert!(set.nth(index).is_some_and(|address| set.contains(address)));
        }
        assert_eq!(set.nth(set.len()), None);
    }
    // What the user typed as a pattern, and what a file holds.
    let _ = Services::parse(text).matching(text).count();
});
