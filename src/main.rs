//! `ckpt-db`: the command line over the library `ckpt_db`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    ckpt_db::store::install_panic_hook();
    cli::main()
}
