//! PCIe links and Access Control Services.

/// Faster than PCIe 8.0 will be; a number above it is none.
const MAX_SPEED: f64 = 1000.0;
/// PCIe has at most 32 lanes; a device that is gone reads as 63 (all ones), one without a link as 0.
const LANES: std::ops::RangeInclusive<u32> = 1..=32;

/// First extended capability (PCI Express Base Specification, 7.6).
const EXTENDED: u16 = 0x100;
/// Each capability has at least two words, so no more of them fit.
const MAX_CAPABILITIES: usize = (0x1000 - 0x100) / 8;
/// Access Control Services.
const ACS: u32 = 0x000d;
/// Redirection of requests and of completions, and egress control: what the kernel's own `pci_bridge_has_acs_redir`
/// (drivers/pci/p2pdma.c) looks at.
const REDIRECT: u32 = 0x04 | 0x08 | 0x20;

/// `32.0 GT/s PCIe`, `2.5 GT/s`; the inner `None` where the kernel itself does not know (`Unknown`).
pub fn link_speed(text: &str) -> Option<Option<f64>> {
    let text = super::line(text)?;
    if text.starts_with("Unknown") {
        return Some(None);
    }
    let (number, unit) = text.split_once(' ')?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !plain || !unit.starts_with("GT/s") {
        return None;
    }
    number.parse().ok().filter(|speed| (0.0..=MAX_SPEED).contains(speed)).map(Some)
}

/// `16`; the inner `None` where there is no link.
pub fn link_width(text: &str) -> Option<Option<u32>> {
    let lanes = super::number::decimal(text.trim())?;
    Some(LANES.contains(&lanes).then_some(lanes))
}

/// Whether a bridge redirects peer-to-peer traffic, from its configuration space, of which `word` reads four bytes at an offset.
/// `None` where it cannot be read that far.
pub fn acs_redirects(mut word: impl FnMut(u16) -> Option<u32>) -> Option<bool> {
    let mut offset = EXTENDED;
    for _ in 0..MAX_CAPABILITIES {
        let header = word(offset)?;
        // All zeros: no extended capability. All ones: the device is gone.
        if header == 0 || header == u32::MAX {
            return Some(false);
        }
        if header & 0xffff == ACS {
            // Control is the upper half of the word behind the header.
            return Some((word(offset + 4)? >> 16) & REDIRECT != 0);
        }
        offset = u16::try_from((header >> 20) & 0xffc).ok()?;
        if offset < EXTENDED {
            return Some(false);
        }
    }
    Some(false)
}

#[cfg(test)]
#[expect(clippy::option_option, reason = "no sense, no value, and a value are three answers")]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("32.0 GT/s PCIe\n", Some(Some(32.0)))]
    #[case("2.5 GT/s", Some(Some(2.5)))]
    #[case("8 GT/s", Some(Some(8.0)))]
    #[case("Unknown speed\n", Some(None))]
    #[case("Unknown", Some(None))]
    #[case("16.0", None)]
    #[case("-1 GT/s", None)]
    #[case("1e3 GT/s", None)]
    #[case("9999 GT/s", None)]
    #[case("", None)]
    fn speeds(#[case] text: &str, #[case] speed: Option<Option<f64>>) {
        assert_eq!(link_speed(text), speed);
    }

    #[rstest]
    #[case("16\n", Some(Some(16)))]
    #[case("0", Some(None))]
    #[case("63", Some(None))]
    #[case("255", Some(None))]
    #[case("x16", None)]
    #[case("", None)]
    fn widths(#[case] text: &str, #[case] width: Option<Option<u32>>) {
        assert_eq!(link_width(text), width);
    }

    /// A configuration space of a few words, zero elsewhere, readable up to `end`.
    fn space(words: &[(u16, u32)], end: u16) -> Option<bool> {
        acs_redirects(|offset| {
            let word = words.iter().find(|(at, _)| *at == offset).map_or(0, |(_, word)| *word);
            (offset < end).then_some(word)
        })
    }

    #[rstest]
    // AER at 0x100, ACS at 0x148 with SV RR CR UF on (0x1d), or with all off.
    #[case(&[(0x100, 0x1482_0001), (0x148, 0x0001_000d), (0x14c, 0x001d_005f)], 0x1000, Some(true))]
    #[case(&[(0x100, 0x1482_0001), (0x148, 0x0001_000d), (0x14c, 0x0000_005f)], 0x1000, Some(false))]
    // Source validation alone redirects nothing.
    #[case(&[(0x100, 0x0001_000d), (0x104, 0x0001_005f)], 0x1000, Some(false))]
    #[case(&[], 0x1000, Some(false))]
    #[case(&[(0x100, 0xffff_ffff)], 0x1000, Some(false))]
    // A capability list that runs in a circle ends.
    #[case(&[(0x100, 0x1002_0001)], 0x1000, Some(false))]
    // Without CAP_SYS_ADMIN the file ends after 64 bytes.
    #[case(&[(0x100, 0x0001_000d)], 0x40, None)]
    #[case(&[(0x100, 0x0001_000d)], 0x104, None)]
    fn acs(#[case] words: &[(u16, u32)], #[case] end: u16, #[case] redirects: Option<bool>) {
        assert_eq!(space(words, end), redirects);
    }
}
