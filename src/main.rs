//! `ckpt-db`: the command line over the library `ckpt_db`.

mod cli;

use std::process::ExitCode;

/// Wipes every piece of memory that is freed, those of libraries too: JSON trees, outgrown buffers, what TLS decrypted.
///
/// Below it is one heap for all threads. The C library's would be one for each thread, and what a burst leaves in one of
/// them serves no other: a quarter more memory with hundreds of watches.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<dlmalloc::GlobalDlmalloc> =
    zeroizing_alloc::ZeroAlloc(dlmalloc::GlobalDlmalloc);

fn main() -> ExitCode {
    ckpt_db::hardening::harden();
    ckpt_db::store::install_panic_hook();
    cli::main()
}
