//! Who owns what on the other side of a user namespace.

/// One range of ids: `inside` … of the namespace are `outside` … of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id of the namespace.
    pub inside: u32,
    /// First id of the host.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// What the kernel shows and takes for an id that has no counterpart.
const NOBODY: u32 = 65_534;

/// Translates owners between archives, which have a container's ids, and its files as the host sees them. The default
/// changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Users; empty for no translation.
    pub uids: Vec<IdRange>,
    /// Groups; empty for no translation.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// Of files as the host sees them.
    #[must_use]
    pub fn to_inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let of = |ranges: &[IdRange], id: u32| {
            find(ranges, id, |r| r.outside).map_or(NOBODY, |(r, at)| r.inside + at)
        };
        (through(&self.uids, uid, of), through(&self.gids, gid, of))
    }

    /// Of files as the container's processes see them.
    #[must_use]
    pub fn to_outside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let of = |ranges: &[IdRange], id: u32| {
            let known = |id| find(ranges, id, |r| r.inside).map(|(r, at)| r.outside + at);
            known(id).or_else(|| known(NOBODY)).unwrap_or(NOBODY)
        };
        (through(&self.uids, uid, of), through(&self.gids, gid, of))
    }
}

fn through(ranges: &[IdRange], id: u32, of: impl Fn(&[IdRange], u32) -> u32) -> u32 {
    if ranges.is_empty() { id } else { of(ranges, id) }
}

fn find(ranges: &[IdRange], id: u32, first: impl Fn(&IdRange) -> u32) -> Option<(&IdRange, u32)> {
    ranges.iter().find_map(|r| id.checked_sub(first(r)).filter(|at| *at < r.size).map(|at| (r, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let range = |inside, outside, size| IdRange { inside, outside, size };
        let map = IdMap {
            uids: vec![range(0, 100_000, 1000), range(1000, 500_000, 64_536)],
            gids: vec![range(0, 200_000, 10)],
        };
        assert_eq!(map.to_outside(0, 3), (100_000, 200_003));
        assert_eq!(map.to_outside(1000, 10), (500_000, 65_534));
        assert_eq!(map.to_outside(70_000, 0), (564_534, 200_000));
        assert_eq!(map.to_inside(500_001, 200_009), (1001, 9));
        assert_eq!(map.to_inside(0, 0), (65_534, 65_534));
        assert_eq!(IdMap::default().to_outside(7, 8), (7, 8));
    }
}
