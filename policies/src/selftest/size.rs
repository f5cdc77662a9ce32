//! Sizes of messages as people write them: `4KiB`, `128MiB`, `4KiB-128MiB`, `64KiB,1MiB`.

use std::{fmt, str::FromStr};

/// Units, from the largest.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
/// From one size of a range to the next.
const STEP: u64 = 4;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no size: give bytes, or a whole number with KiB, MiB or GiB, from 1 byte to 1 GiB")]
pub struct ParseSizeError(pub String);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => write!(f, "{} {unit}", self.0 / bytes),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSizeError(text.into());
        let start = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(start);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bytes.filter(|bytes| (1..=1 << 30).contains(bytes)).map(Self).ok_or_else(wrong)
    }
}

/// A list of sizes: each one, or a range in steps of four with its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(pub Vec<u64>);

impl FromStr for Sizes {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut sizes = Vec::new();
        for item in text.split(',').map(str::trim) {
            match item.split_once('-') {
                None => sizes.push(item.parse::<Size>()?.0),
                Some((first, last)) => {
                    let (first, last) = (first.trim().parse::<Size>()?.0, last.trim().parse::<Size>()?.0);
                    if first > last {
                        return Err(ParseSizeError(item.into()));
                    }
                    let below = std::iter::successors(Some(first), |size| Some(size * STEP));
                    sizes.extend(below.take_while(|size| *size < last));
                    sizes.push(last);
                }
            }
        }
        Ok(Self(sizes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in
            [("1", 1), ("8 B", 8), ("4KiB", 4096), ("128 MiB", 128 << 20), ("1g", 1 << 30), ("1025", 1025)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        for wrong in ["", "0", "KiB", "4 XiB", "-1", "2GiB", "18446744073709551615k", "1.5MiB"] {
            assert_eq!(wrong.parse::<Size>(), Err(ParseSizeError(wrong.into())));
        }
    }

    #[test]
    fn ranges_go_in_fours_and_end_at_their_end() {
        let sizes = |text: &str| text.parse::<Sizes>().map(|sizes| sizes.0);
        assert_eq!(sizes("4KiB-128MiB").unwrap().len(), 9);
        assert_eq!(sizes("4KiB-100KiB,7"), Ok(vec![4096, 16_384, 65_536, 102_400, 7]));
        assert_eq!(sizes("4KiB-4KiB"), Ok(vec![4096]));
        assert!(sizes("8KiB-4KiB").is_err() && sizes("4KiB,,").is_err() && sizes("-4KiB").is_err());
    }
}
