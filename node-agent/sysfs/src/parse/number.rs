//! Numbers: PCI ids, NUMA nodes, lists of CPUs or nodes.

/// A list longer than this is no list of NUMA nodes (`MAX_NUMNODES` is 1024 at most).
const MAX_LIST: usize = 4096;

/// `0x15b3`, also without the prefix.
pub fn hex_u16(text: &str) -> Option<u16> {
    hex_u32(text)?.try_into().ok()
}

/// `0x030200`, also without the prefix.
pub fn hex_u32(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !all_hex {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

/// A NUMA node; -1 (`NUMA_NO_NODE`) where the kernel does not know.
pub fn numa_node(text: &str) -> Option<i32> {
    match text.trim() {
        "-1" => Some(-1),
        number => decimal(number)?.try_into().ok(),
    }
}

/// A list as the kernel prints CPUs and nodes: `0-1,3`.
pub fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (decimal(first)?, decimal(last)?);
        let many = usize::try_from(last.checked_sub(first)?).ok()?;
        if numbers.len() + many >= MAX_LIST {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Digits only: `u32::from_str` would take a plus sign too.
pub(super) fn decimal(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0x15b3\n", Some(0x15b3))]
    #[case("10DE", Some(0x10de))]
    #[case("0x030200", Some(0x3_0200))]
    #[case("0xffffffff", Some(0xffff_ffff))]
    #[case("0x1ffffffff", None)]
    #[case("0x", None)]
    #[case("", None)]
    #[case("+15", None)]
    #[case("0x0x1", None)]
    fn hex(#[case] text: &str, #[case] value: Option<u32>) {
        assert_eq!(hex_u32(text), value);
        assert_eq!(hex_u16(text), value.and_then(|value| value.try_into().ok()));
    }

    #[rstest]
    #[case("-1\n", Some(-1))]
    #[case("0\n", Some(0))]
    #[case("7", Some(7))]
    #[case("-2", None)]
    #[case("", None)]
    #[case("+1", None)]
    #[case("4294967295", None)]
    fn numa(#[case] text: &str, #[case] value: Option<i32>) {
        assert_eq!(numa_node(text), value);
    }

    #[rstest]
    #[case("0", Some(vec![0]))]
    #[case("0-1,3\n", Some(vec![0, 1, 3]))]
    #[case("0-1,", None)]
    #[case("3-1", None)]
    #[case("0-4294967295", None)]
    #[case("", None)]
    #[case("a", None)]
    fn lists(#[case] text: &str, #[case] value: Option<Vec<u32>>) {
        assert_eq!(cpu_list(text), value);
    }
}
