//! Kernel versions, compared as numbers: 6.17 is later than 6.8.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `major.minor` of a kernel (or of UCX, whose versions read the same).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Version {
    /// A version from its two numbers.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

/// A text that does not start with `MAJOR.MINOR`.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` does not start with MAJOR.MINOR, such as 6.8")]
pub struct NotAVersion(String);

impl FromStr for Version {
    type Err = NotAVersion;

    /// Reads the first two numbers and leaves the rest: `6.8.0-1024-aws` is 6.8.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let wrong = || NotAVersion(text.chars().take(64).collect());
        let (major, rest) = text.trim().split_once('.').ok_or_else(wrong)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Ok(Self { major: major.parse().map_err(|_| wrong())?, minor: rest[..digits].parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_not_text() {
        let of = |text: &str| text.parse::<Version>().unwrap();
        assert!(of("6.17.0-1007-aws") > of("6.8.0-1024-aws"));
        assert!(of("5.15.0-1070-aws") < of("6.8"));
        assert_eq!(of("6.8.0-1024-aws").to_string(), "6.8");
        assert_eq!(of("6.8-rc1"), Version::new(6, 8));
        for bad in ["", "6", "six.eight", "6.", "-6.8", "6.x", "99999999999.1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
