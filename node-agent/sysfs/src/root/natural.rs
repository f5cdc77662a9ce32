//! Natural order of names: runs of digits compare as numbers.

use std::cmp::Ordering;

/// `mlx5_2` before `mlx5_10`; a total order, so names that differ only in leading zeros still differ.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (text_a, rest_a) = split(left, |c| !c.is_ascii_digit());
        let (text_b, rest_b) = split(right, |c| !c.is_ascii_digit());
        let (digits_a, rest_a) = split(rest_a, |c| c.is_ascii_digit());
        let (digits_b, rest_b) = split(rest_b, |c| c.is_ascii_digit());
        let (number_a, number_b) = (digits_a.trim_start_matches('0'), digits_b.trim_start_matches('0'));
        let order = text_a
            .cmp(text_b)
            .then(digits_a.is_empty().cmp(&digits_b.is_empty()).reverse())
            .then(number_a.len().cmp(&number_b.len()))
            .then(number_a.cmp(number_b));
        if order != Ordering::Equal || (rest_a.is_empty() && rest_b.is_empty()) {
            return order.then(a.cmp(b));
        }
        (left, right) = (rest_a, rest_b);
    }
}

fn split(text: &str, in_run: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !in_run(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        let mut names =
            ["mlx5_10", "mlx5_2", "mlx5_bond_0", "mlx5_02", "10", "9", "a", "mlx5_", "0000:9a:00.0", "0000:1a:00.0"];
        names.sort_by(|a, b| compare(a, b));
        let wanted =
            ["9", "10", "0000:1a:00.0", "0000:9a:00.0", "a", "mlx5_", "mlx5_02", "mlx5_2", "mlx5_10", "mlx5_bond_0"];
        let mut sorted = wanted;
        sorted.sort_by(|a, b| compare(a, b));
        assert_eq!(names, sorted, "the order depends on where the names started");
        let at = |name: &str| names.iter().position(|other| *other == name);
        assert!(at("mlx5_2") < at("mlx5_10"));
        assert!(at("9") < at("10"));
        assert!(at("0000:1a:00.0") < at("0000:9a:00.0"));
        assert!(at("mlx5_") < at("mlx5_2"));
    }

    proptest::proptest! {
        #[test]
        fn it_is_an_order(a in "[a-c0-2]{0,6}", b in "[a-c0-2]{0,6}", c in "[a-c0-2]{0,6}") {
            assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            assert_eq!(compare(&a, &b) == Ordering::Equal, a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                assert!(compare(&a, &c).is_le());
            }
        }
    }
}
