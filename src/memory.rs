//! The allocator's one wish: that somebody says when a busy time is over.
//!
//! mimalloc keeps what a thread has freed for its next need. After a storm of connections that is more than all the idle
//! connections use, so each thread calls [`give_back`] when it has become quiet.
#![allow(unsafe_code)]

/// Returns the memory that the calling thread has freed to the kernel. Takes up to milliseconds: not for a thread that messages wait
/// for.
pub fn give_back() {
    // SAFETY: `mi_collect` may be called at any time and from any thread; it touches nothing that is allocated.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
