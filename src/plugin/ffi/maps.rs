//! Where a library lies in memory, from /proc/self/maps: what a table's pointers are checked against.

use std::ops::Range;

/// One mapping of a library's file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    is_readable: bool,
    is_executable: bool,
}

/// The mappings of one file.
#[derive(Debug, Default)]
pub(super) struct Maps(Vec<Mapping>);

impl Maps {
    /// Those of this process whose file is called `name`.
    ///
    /// # Errors
    /// As read(2).
    pub(super) fn of(name: &str) -> std::io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/maps")?, name))
    }

    fn parse(text: &str, name: &str) -> Self {
        let parse = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let (first, last) = words.next()?.split_once('-')?;
            let rights = words.next()?.as_bytes();
            // After offset, device and inode comes the file's name, and perhaps ` (deleted)`.
            if words.nth(3)? != name {
                return None;
            }
            let address = |text| usize::from_str_radix(text, 16).ok();
            let addresses = address(first)?..address(last)?;
            Some(Mapping {
                addresses,
                is_readable: rights.first() == Some(&b'r'),
                is_executable: rights.get(2) == Some(&b'x'),
            })
        };
        Self(text.lines().filter_map(parse).collect())
    }

    /// Whether all of `addresses` can be read.
    pub(super) fn can_read(&self, addresses: &Range<usize>) -> bool {
        self.readable_from(addresses.start) >= addresses.len() && addresses.start <= addresses.end
    }

    /// Bytes that can be read from `address` on, in adjacent mappings.
    pub(super) fn readable_from(&self, address: usize) -> usize {
        let mut end = address;
        let holds = |end: usize| move |map: &&Mapping| map.is_readable && map.addresses.contains(&end);
        while let Some(map) = self.0.iter().find(holds(end)) {
            end = map.addresses.end;
        }
        end - address
    }

    /// Whether code is at `address`.
    pub(super) fn can_run(&self, address: usize) -> bool {
        self.0.iter().any(|map| map.is_executable && map.addresses.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
1000-2000 r--p 00000000 00:01 77 /memfd:arus-plugin-aa (deleted)
2000-3000 r-xp 00001000 00:01 77 /memfd:arus-plugin-aa (deleted)
3000-4000 ---p 00002000 00:01 77 /memfd:arus-plugin-aa (deleted)
4000-5000 rw-p 00000000 00:00 0
5000-6000 r-xp 00000000 08:01 99 /usr/lib/libc.so.6
";

    #[test]
    fn only_the_files_own_mappings_count() {
        let maps = Maps::parse(TEXT, "/memfd:arus-plugin-aa");
        assert_eq!(maps.0.len(), 3);
        assert!(maps.can_read(&(0x1000..0x3000)) && maps.can_read(&(0x1ff0..0x2010)));
        assert!(!maps.can_read(&(0x1000..0x3001)) && !maps.can_read(&(0x4000..0x4001)));
        assert!(!maps.can_read(&(0..1)) && !maps.can_read(&(usize::MAX - 1..usize::MAX)));
        assert_eq!(maps.readable_from(0x2fff), 1);
        assert!(maps.can_run(0x2000) && !maps.can_run(0x1fff) && !maps.can_run(0x3000) && !maps.can_run(0x5000));
    }

    #[test]
    fn this_process_has_mappings() {
        let own = std::env::current_exe().expect("a name");
        let maps = Maps::of(own.to_str().expect("no odd name")).expect("/proc");
        assert!(maps.can_run(this_process_has_mappings as fn() as usize));
    }
}
