//! Whether a file is a whole ELF library for this machine. The loader maps what a file's headers say and touches it: a file
//! that is cut off, as one that a compiler still writes, would end the process with SIGBUS.

use super::LoadError;

/// The machine that this was compiled for, as `e_machine` numbers it (ELF gABI); 0 where nobody has looked it up.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else {
    0
};
const SHARED_OBJECT: u16 = 3;
/// Sizes of the file's header and of a program header in ELF64.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// Looks at all that the headers say of places in the file.
pub(super) fn check(file: &[u8]) -> Result<(), LoadError> {
    let wrong = |text: &str| LoadError::Link(text.into());
    if file.len() < HEADER || !file.starts_with(b"\x7fELF") {
        return Err(wrong("it is not a shared library (no ELF header)"));
    }
    // 64 bits, little endian.
    if file[4] != 2 || file[5] != 1 || (MACHINE != 0 && half(file, 18) != Some(MACHINE)) {
        return Err(wrong("it was compiled for another machine"));
    }
    if half(file, 16) != Some(SHARED_OBJECT) {
        return Err(wrong("it is not a shared library (compile it with -shared -fPIC)"));
    }
    let cut_off =
        || LoadError::Link(format!("it is cut off: it has only {} bytes; is it still being written?", file.len()));
    let (start, size, count) = (word(file, 32), half(file, 54), half(file, 56));
    let (Some(start), Some(size), Some(count)) = (start, size, count) else { return Err(cut_off()) };
    if usize::from(size) != PROGRAM_HEADER {
        return Err(wrong("its program headers have an unknown size"));
    }
    for index in 0..u64::from(count) {
        let header = start.checked_add(index * PROGRAM_HEADER as u64);
        let header = header.and_then(|at| usize::try_from(at).ok()).ok_or_else(cut_off)?;
        let (offset, len) = (word(file, header.saturating_add(8)), word(file, header.saturating_add(32)));
        let end = offset.zip(len).and_then(|(offset, len)| offset.checked_add(len));
        if end.is_none_or(|end| end > file.len() as u64) {
            return Err(cut_off());
        }
    }
    Ok(())
}

fn half(file: &[u8], at: usize) -> Option<u16> {
    file.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

fn word(file: &[u8], at: usize) -> Option<u64> {
    file.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A header with one program header that says that `len` bytes lie at `offset`.
    fn library(offset: u64, len: u64) -> Vec<u8> {
        let mut file = vec![0; HEADER + PROGRAM_HEADER + 100];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&SHARED_OBJECT.to_le_bytes());
        file[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[HEADER + 8..HEADER + 16].copy_from_slice(&offset.to_le_bytes());
        file[HEADER + 32..HEADER + 40].copy_from_slice(&len.to_le_bytes());
        file
    }

    #[test]
    fn whole_files_are_taken_and_cut_ones_are_not() {
        let file = library(0, 220);
        assert_eq!(check(&file), Ok(()));
        for len in 0..file.len() {
            assert!(check(&file[..len]).is_err(), "{len}");
        }
        for (offset, len) in [(0, 221), (220, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(check(&library(offset, len)).unwrap_err().to_string().contains("cut off"));
        }
        let mut far = library(0, 1);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(check(&far).is_err());
    }

    #[test]
    fn other_kinds_of_files_are_named() {
        let changed = |at: usize, byte: u8| {
            let mut file = library(0, 1);
            file[at] = byte;
            check(&file).unwrap_err().to_string()
        };
        assert!(changed(0, 0).contains("no ELF header"));
        assert!(changed(4, 1).contains("another machine") && changed(18, 40).contains("another machine"));
        assert!(changed(16, 2).contains("not a shared library"));
        assert!(changed(54, 32).contains("unknown size"));
    }

    #[test]
    fn this_program_passes_where_it_is_position_independent() {
        let own = std::fs::read("/proc/self/exe").expect("it can be read");
        assert_eq!(check(&own), Ok(()));
    }
}
