//! The ports of `--top`.
//!
//! A list of our own, and a modest one: TCP services that people commonly run, put in order by how
//! often one expects to meet them. The numbers are those of IANA's registry of service names and
//! port numbers, and of the documentation of the programs that have none there. The order is a
//! judgement, not a survey: nobody has measured it.

/// What is met most often comes first.
const PORTS: &[u16] = &[
    80, 443, 22, 8080, 25, 53, 21, 3389, 445, 139, 135, 3306, 8443, 5432, 587, 993, 143, 110, 995,
    465, 23, 111, 2049, 389, 636, 88, 5900, 6379, 1433, 27017, 8000, 8888, 9090, 3000, 9200, 631,
    1883, 5672, 11211, 179, 5060, 5061, 1723, 3128, 1080, 873, 2375, 2376, 6443, 10250, 2379, 9100,
    5000, 8081, 8008, 9000, 9443, 1521, 548, 515, 554, 1194, 113, 119, 79, 7, 9, 13, 19, 37, 43,
    49, 70, 102, 264, 427, 502, 514, 543, 544, 593, 623, 749, 853, 902, 989, 990, 992, 1099, 2181,
    3260, 3268, 3690, 4369, 5222, 5269, 5601, 5671, 5984, 5985, 5986, 6000, 6667, 6697, 7000, 7001,
    7474, 8009, 8086, 8088, 8180, 8333, 8500, 8883, 9042, 9092, 9093, 9418, 10000, 15672, 25565,
    26379, 50000,
];

/// How many there are.
pub const MOST: u32 = PORTS.len() as u32;

/// The first so many of the list.
pub fn ports(count: u32) -> impl Iterator<Item = u16> {
    PORTS.iter().copied().take(count as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_there_twice() {
        assert_eq!(PORTS.iter().collect::<HashSet<_>>().len(), PORTS.len());
        assert_eq!(ports(2).collect::<Vec<_>>(), [80, 443]);
    }
}
