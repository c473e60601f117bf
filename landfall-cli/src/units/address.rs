//! Addresses: `127.0.0.1:7000`, `[::1]:7000`, `example.net:7`.

/// The port of `HOST:PORT`. An IPv6 address needs its brackets, since `::1:7000` is an address too.
pub fn port_of(address: &str) -> Result<u16, String> {
    let refuse = || {
        let advice = advice_for_port(address).filter(|_| !address.contains('-'));
        let advice = advice.as_deref();
        let advice = advice.unwrap_or("write 127.0.0.1:7000, [::1]:7000 or example.net:7");
        let of_url = match address.contains("://") {
            true => ", without a scheme and a path",
            false => "",
        };
        format!("`{address}` is not HOST:PORT: {advice}{of_url}")
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty() && (is_bracketed || !host.contains([':', '[', ']']));
    let is_number = !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    match port.parse() {
        Ok(port) if is_host => Ok(port),
        Err(_) if is_host && is_number => Err(format!(
            "`{address}`: {port} is no port, the last one is 65535"
        )),
        _ => Err(refuse()),
    }
}

/// What to write for a port, or a range of them, without a host: `8000`, `:8000`, `8000-8009`.
pub fn advice_for_port(text: &str) -> Option<String> {
    let ports = text.strip_prefix(':').unwrap_or(text);
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    ports
        .split('-')
        .all(is_port)
        .then(|| format!("write 127.0.0.1:{ports}, or 0.0.0.0:{ports} to listen on all addresses"))
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
            "+7000",
            "7000-",
            "7000-7009",
            "70000",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:http",
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
        for port in ["8000", ":8000"] {
            let refusal = port_of(port).unwrap_err();
            let advice = "write 127.0.0.1:8000, or 0.0.0.0:8000 to listen on all addresses";
            assert!(refusal.contains(advice), "{refusal}");
        }
        let refusal = port_of("http://127.0.0.1:7000/").unwrap_err();
        assert!(
            refusal.ends_with("without a scheme and a path"),
            "{refusal}"
        );
        let refusal = port_of("127.0.0.1:70000").unwrap_err();
        assert!(
            refusal.contains("70000 is no port, the last one is 65535"),
            "{refusal}"
        );
    }
}
