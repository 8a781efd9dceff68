//! `ckpt-db`: the command line over the library `ckpt_db`.

mod cli;

use std::process::ExitCode;

/// Wipes every piece of memory that is freed, those of libraries too: JSON trees, outgrown buffers, what TLS decrypted.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    ckpt_db::hardening::harden();
    ckpt_db::store::install_panic_hook();
    cli::main()
}
