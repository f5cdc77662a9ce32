//! Kubernetes quantities (`8`, `500m`, `64Gi`, `1e3`), as whole numbers.

/// The quantity as a whole number, what is less than one left out; `None`: it is none, or below zero. Above `u64` it is the
/// largest.
///
/// The grammar is that of `k8s.io/apimachinery`: digits with at most one point, then a binary suffix, a decimal one or an exponent.
pub fn floor(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    // Nine digits behind the point are all that the API keeps.
    let fraction = &fraction[..fraction.len().min(9)];
    let digits = format!("{whole}{fraction}");
    // More digits than this are more than any suffix could bring back into range.
    let number = if digits.len() > 30 { u128::MAX } else { digits.parse().ok()? };
    let (multiplier, divisor) = scale(suffix)?;
    let number =
        number.saturating_mul(multiplier) / divisor.saturating_mul(10_u128.pow(u32::try_from(fraction.len()).ok()?));
    Some(u64::try_from(number).unwrap_or(u64::MAX))
}

/// What a suffix multiplies by and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let up = |exponent| (1000_u128.pow(exponent), 1);
    let binary = |exponent| (1024_u128.pow(exponent), 1);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => up(1),
        "M" => up(2),
        "G" => up(3),
        "T" => up(4),
        "P" => up(5),
        "E" => up(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.pow(exponent.unsigned_abs().min(20));
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

/// A number of bytes as people write it: the largest binary suffix that leaves a whole number.
pub fn bytes(number: u64) -> String {
    let suffixes = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut text = (number, "");
    for suffix in suffixes {
        if text.0 == 0 || !text.0.is_multiple_of(1024) {
            break;
        }
        text = (text.0 / 1024, suffix);
    }
    format!("{}{}", text.0, text.1)
}

#[cfg(test)]
mod tests {
    use super::{bytes, floor};

    #[test]
    fn quantities() {
        for (text, number) in [
            ("8", 8),
            ("+8", 8),
            ("0", 0),
            ("1k", 1000),
            ("1500m", 1),
            ("999m", 0),
            ("1.5Gi", 1_610_612_736),
            (".5Ki", 512),
            ("2.", 2),
            ("64Gi", 68_719_476_736),
            ("1e3", 1000),
            ("1E3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("25e-1", 2),
            ("100Ei", u64::MAX),
            ("99999999999999999999999999999999999999999", u64::MAX),
            ("1e99", u64::MAX),
        ] {
            assert_eq!(floor(text), Some(number), "{text}");
        }
        for text in ["", "-1", "x", "1x", "1..2", "1.2.3", ".", "1 Gi", "Gi", "1e", "1e1.5", "٣"] {
            assert_eq!(floor(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_read_as_they_are_written() {
        for (number, text) in
            [(0, "0"), (512, "512"), (1536, "1536"), (67_108_864, "64Mi"), (1 << 34, "16Gi"), (12 << 30, "12Gi")]
        {
            assert_eq!(bytes(number), text);
            assert_eq!(floor(text), Some(number));
        }
    }
}
