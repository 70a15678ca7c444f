//! Arrays next to pages without access rights.

use std::ops::DerefMut;

/// The place of an array.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// An allocation of exactly its size.
    Heap,
    /// Just before a page without access rights. The array is aligned for its elements only.
    #[cfg(unix)]
    BeforeGuard,
    /// Just behind such a page.
    #[cfg(unix)]
    AfterGuard,
}

impl Place {
    #[cfg(unix)]
    pub const ALL: [Self; 3] = [Self::Heap, Self::BeforeGuard, Self::AfterGuard];
    #[cfg(not(unix))]
    pub const ALL: [Self; 1] = [Self::Heap];

    /// Returns a copy of the values in this place.
    pub fn put<T: Copy + 'static>(self, values: &[T]) -> Box<dyn DerefMut<Target = [T]>> {
        match self {
            Self::Heap => Box::new(values.to_vec()),
            #[cfg(unix)]
            Self::BeforeGuard => Box::new(guarded::Guarded::new(values, guarded::Guard::Behind)),
            #[cfg(unix)]
            Self::AfterGuard => Box::new(guarded::Guarded::new(values, guarded::Guard::Before)),
        }
    }
}

#[cfg(unix)]
mod guarded {
    use std::ops::{Deref, DerefMut};
    use std::ptr::{NonNull, null_mut};

    pub enum Guard {
        Before,
        Behind,
    }

    /// Pages that hold an array and, next to it, the guard: a page without access rights.
    pub struct Guarded<T> {
        pages: NonNull<u8>,
        bytes: usize,
        start: NonNull<T>,
        length: usize,
    }

    impl<T: Copy> Guarded<T> {
        pub fn new(values: &[T], guard: Guard) -> Self {
            // SAFETY: the call only returns a number.
            let page =
                usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page has a size");
            let used = size_of_val(values).next_multiple_of(page);
            let bytes = used + page;
            // SAFETY: new pages at an address of the system's choice.
            let pages = unsafe {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(null_mut(), bytes, access, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0)
            };
            assert_ne!(pages, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            let pages = NonNull::new(pages.cast::<u8>()).expect("mapped");
            let (guard, start) = match guard {
                Guard::Before => (0, page),
                Guard::Behind => (used, used - size_of_val(values)),
            };
            // SAFETY: both offsets lie in the pages, and the guard starts at a page. The values fit behind `start`, which is
            // aligned because the size of `T` is a multiple of its alignment.
            let start = unsafe {
                let done = libc::mprotect(pages.add(guard).as_ptr().cast(), page, libc::PROT_NONE);
                assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
                let start = pages.add(start).cast::<T>();
                start.copy_from_nonoverlapping(NonNull::from(values).cast(), values.len());
                start
            };
            Self { pages, bytes, start, length: values.len() }
        }
    }

    impl<T> Deref for Guarded<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            // SAFETY: `new` wrote `length` values there.
            unsafe { NonNull::slice_from_raw_parts(self.start, self.length).as_ref() }
        }
    }

    impl<T> DerefMut for Guarded<T> {
        fn deref_mut(&mut self) -> &mut [T] {
            // SAFETY: `new` wrote `length` values there, and `self` is borrowed mutably.
            unsafe { NonNull::slice_from_raw_parts(self.start, self.length).as_mut() }
        }
    }

    impl<T> Drop for Guarded<T> {
        fn drop(&mut self) {
            // SAFETY: these pages come from `mmap`.
            unsafe { libc::munmap(self.pages.as_ptr().cast(), self.bytes) };
        }
    }
}
