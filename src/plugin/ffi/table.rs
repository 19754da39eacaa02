//! The table of a plugin: copied out of the library and checked, before anything of it is used.

use super::abi::{self, Table};
use super::maps::Maps;

/// What a table says, in the words of Rust.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) minor: u16,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) flags: u32,
    pub(super) connection_size: u32,
    pub(super) holdback_max: u32,
    pub(super) process_open: Option<abi::ProcessOpen>,
    pub(super) process_close: Option<abi::Close>,
    pub(super) shard_open: Option<abi::ShardOpen>,
    pub(super) shard_close: Option<abi::Close>,
    pub(super) connection_open: Option<abi::ConnectionOpen>,
    pub(super) connection_close: Option<abi::ConnectionClose>,
    pub(super) data: abi::Data,
}

/// What every version of the header begins a table with: magic, version and size.
const HEAD: usize = 16;

/// Copies the table at `address` out and checks it against the header and against where the library lies. The error is
/// what is wrong, to be read behind the file's name.
pub(super) fn check(address: usize, maps: &Maps) -> Result<Checked, String> {
    if !address.is_multiple_of(align_of::<Table>()) || !maps.can_read(&(address..address.saturating_add(HEAD))) {
        return Err(format!("{} does not give a table inside of the library", abi::SYMBOL));
    }
    let head = copy(address, HEAD);
    if head.magic != abi::MAGIC {
        return Err("is no arus plugin: its table does not begin with ARUS_PLUGIN_MAGIC".into());
    }
    if head.abi_major != abi::MAJOR {
        return Err(format!(
            "was made for version {}.{} of the plugin interface, and this arus has {}.{}: compile it with this arus's \
             arus_plugin.h",
            head.abi_major,
            head.abi_minor,
            abi::MAJOR,
            abi::MINOR
        ));
    }
    let size = head.size as usize;
    if size < size_of::<Table>() {
        return Err(format!("has a table of {size} bytes, where version 1.0 has {}", size_of::<Table>()));
    }
    if !maps.can_read(&(address..address.saturating_add(size))) {
        return Err(format!("has a table of {size} bytes that ends outside of the library"));
    }
    let table = copy(address, size_of::<Table>());
    let name = text(table.name, "name", maps)?;
    let version = text(table.version, "version", maps)?;
    match table.flags {
        0 => return Err("wants to see neither direction: its flags are 0".into()),
        flags if flags & !(abi::UP | abi::DOWN) != 0 => {
            return Err(format!(
                "sets flags that this arus does not know: {:#x} (it was made for version {}.{}, this is {}.{})",
                flags & !(abi::UP | abi::DOWN),
                head.abi_major,
                head.abi_minor,
                abi::MAJOR,
                abi::MINOR
            ));
        }
        _ => {}
    }
    let bounds = [
        ("connection_size", table.connection_size, abi::CONNECTION_LIMIT),
        ("holdback_max", table.holdback_max, abi::HOLDBACK_LIMIT),
    ];
    if let Some((field, value, limit)) = bounds.into_iter().find(|(_, value, limit)| value > limit) {
        return Err(format!("has a {field} of {value}, more than {limit}"));
    }
    if table.data == 0 {
        return Err("has no data function".into());
    }
    let functions = [
        ("process_open", table.process_open),
        ("process_close", table.process_close),
        ("shard_open", table.shard_open),
        ("shard_close", table.shard_close),
        ("connection_open", table.connection_open),
        ("connection_close", table.connection_close),
        ("data", table.data),
    ];
    if let Some((field, _)) = functions.into_iter().find(|(_, address)| *address != 0 && !maps.can_run(*address)) {
        return Err(format!("has a {field} that is not a function of this file (wrap functions of other libraries)"));
    }
    Ok(Checked {
        minor: table.abi_minor,
        name,
        version,
        flags: table.flags,
        connection_size: table.connection_size,
        holdback_max: table.holdback_max,
        // SAFETY: null, or an address in this library's code, which stays for ever; the table says that it is a function
        // of this type.
        process_open: unsafe { std::mem::transmute::<usize, Option<abi::ProcessOpen>>(table.process_open) },
        // SAFETY: as above.
        process_close: unsafe { std::mem::transmute::<usize, Option<abi::Close>>(table.process_close) },
        // SAFETY: as above.
        shard_open: unsafe { std::mem::transmute::<usize, Option<abi::ShardOpen>>(table.shard_open) },
        // SAFETY: as above.
        shard_close: unsafe { std::mem::transmute::<usize, Option<abi::Close>>(table.shard_close) },
        // SAFETY: as above.
        connection_open: unsafe { std::mem::transmute::<usize, Option<abi::ConnectionOpen>>(table.connection_open) },
        // SAFETY: as above.
        connection_close: unsafe { std::mem::transmute::<usize, Option<abi::ConnectionClose>>(table.connection_close) },
        // SAFETY: as above, and it is not null.
        data: unsafe { std::mem::transmute::<usize, abi::Data>(table.data) },
    })
}

/// The first `len` bytes of the table at `address`, which can be read; the rest is zero.
fn copy(address: usize, len: usize) -> Table {
    let mut table = Table::default();
    let len = len.min(size_of::<Table>());
    // SAFETY: the caller has looked the source up in the memory map; the target is as long, and any bytes make a valid
    // `Table`, which is plain numbers. A library's constants do not change.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, (&raw mut table).cast::<u8>(), len) };
    table
}

/// A text of the table: printable, not empty, bounded, and inside of the library.
fn text(address: usize, field: &str, maps: &Maps) -> Result<String, String> {
    if address == 0 {
        return Err(format!("has no {field}"));
    }
    let len = maps.readable_from(address).min(abi::NAME_MAX + 1);
    // SAFETY: so many bytes can be read there, as the memory map says, and stay as they are.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, len) };
    let end = bytes.iter().position(|byte| *byte == 0);
    let Some(end) = end else {
        return Err(format!("has a {field} that does not end within {} bytes", abi::NAME_MAX));
    };
    let text = std::str::from_utf8(&bytes[..end]).ok();
    text.filter(|text| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
        .map(str::to_owned)
        .ok_or_else(|| format!("has a {field} that is not printable ASCII"))
}
