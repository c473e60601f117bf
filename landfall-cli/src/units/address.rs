//! Addresses: `127.0.0.1:7000`, `[::1]:7000`, `example.net:7`.

/// The port of `HOST:PORT`. An IPv6 address needs its brackets, since `::1:7000` is an address too.
pub fn port_of(address: &str) -> Result<u16, String> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| {
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty() && (is_bracketed || !host.contains([':', '[', ']']));
        is_host.then(|| port.parse().ok()).flatten()
    });
    parts.ok_or_else(|| {
        format!("`{address}` is not HOST:PORT: write 127.0.0.1:7000, [::1]:7000 or example.net:7")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_every_kind_have_a_port() {
        for address in ["127.0.0.1:7000", "[::1]:7000", "localhost:7000"] {
            assert_eq!(port_of(address), Ok(7000), "{address}");
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused_with_examples() {
        let wrong = [
            "",
            ":",
            ":7000",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:http",
            "127.0.0.1:70000",
            "::1",
            "::1:7000",
            "[::1]",
            "[::1",
            "http://127.0.0.1:7000/",
        ];
        for address in wrong {
            assert!(
                port_of(address).unwrap_err().contains("[::1]:7000"),
                "{address}"
            );
        }
    }
}
