//! Attributes that every PCI function has.

use policies::fabric::{Fact, PcieLink};

use crate::{parse, reader::Reader};

/// `-1` and nothing both mean that the node is not known.
pub(super) fn numa(reader: &mut Reader<'_>, dir: &str) -> Option<u32> {
    reader.value(&format!("{dir}/numa_node"), parse::numa_node)?.try_into().ok()
}

/// The link, where the kernel knows anything of it.
pub(super) fn pcie(reader: &mut Reader<'_>, dir: &str) -> Option<PcieLink> {
    let mut speed = |name: &str| reader.optional(&format!("{dir}/{name}"), parse::link_speed).flatten();
    let (speed_gts, max_speed_gts) = (speed("current_link_speed"), speed("max_link_speed"));
    let mut width = |name: &str| reader.optional(&format!("{dir}/{name}"), parse::link_width).flatten();
    let (width, max_width) = (width("current_link_width"), width("max_link_width"));
    let link = PcieLink { speed_gts, max_speed_gts, width, max_width };
    (link != PcieLink::default()).then_some(link)
}

/// The type of its IOMMU group's domain. A device in no group has no link to one.
pub(super) fn iommu(reader: &mut Reader<'_>, dir: &str) -> Fact<Option<String>> {
    match reader.link(&format!("{dir}/iommu_group")) {
        Ok(None) => Fact::Known(None),
        Ok(Some(_)) => {
            match reader.fact(&format!("{dir}/iommu_group/type"), |text| parse::line(text).map(str::to_owned)) {
                Fact::Known(kind) => Fact::Known(Some(kind)),
                Fact::Unknown(why) => Fact::Unknown(why),
            }
        }
        Err(why) => Fact::Unknown(why),
    }
}
