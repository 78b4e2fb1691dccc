//! How much of firstmate's own program stays mapped.

use std::ffi::c_int;

/// Unmaps the program's code once, after the start. What is needed again comes back with a page fault each, from the page cache.
///
/// Two thirds of it are for the start only: the command line, the file, the checks; `src/start.ld` puts most of that apart. The kernel would take those pages first when
/// memory runs short, and does (it took a third of them as soon as another process had filled a limit with page cache); until then
/// they would count as firstmate's. Nothing is lost where it fails, or where the program's segments are not found.
pub fn unmap_start_code() {
    // SAFETY: the function below has the form that is asked for, and uses what it is given during the call only.
    unsafe { libc::dl_iterate_phdr(Some(unmap_first), std::ptr::null_mut()) };
}

/// The first object is the program itself; see dl_iterate_phdr(3).
unsafe extern "C" fn unmap_first(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut libc::c_void) -> c_int {
    // SAFETY: the caller gives a valid object, with as many headers as it says.
    let (base, headers) = unsafe {
        let Some(object) = object.as_ref() else { return 1 };
        if object.dlpi_phdr.is_null() {
            return 1;
        }
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    // SAFETY: sysconf(3) only answers.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return 1 };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_X == 0 || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (Ok(begin), Ok(length)) = (usize::try_from(base.wrapping_add(header.p_vaddr)), usize::try_from(header.p_memsz)) else {
            continue;
        };
        // Whole pages only: a neighbour may share the others.
        let first = begin.next_multiple_of(page);
        let end = begin.saturating_add(length) / page * page;
        if end > first {
            // SAFETY: the range is code of a file that was mapped privately and not for writing, so every page is what the file
            // holds, and is read from there again; see MADV_DONTNEED in madvise(2).
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(first), end - first, libc::MADV_DONTNEED) };
        }
    }
    // Other objects are not looked at.
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KiB of the program's code that are mapped.
    fn mapped() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap();
        let mut counts = false;
        let mut sum = 0;
        for line in smaps.lines() {
            match line.strip_prefix("Rss:") {
                Some(kib) if counts => sum += kib.trim_end_matches("kB").trim().parse::<u64>().unwrap(),
                Some(_) => {}
                // A mapping begins with its addresses, all else with a name and a colon.
                None if line.split(' ').next().unwrap().contains('-') => {
                    counts = line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap());
                }
                None => {}
            }
        }
        sum
    }

    #[test]
    fn code_goes_and_comes_back() {
        let before = mapped();
        unmap_start_code();
        let after = mapped();
        assert!(after > 0 && after < before, "{before} KiB, then {after} KiB");
    }
}
