//! A line typed at the terminal that nobody sees.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The longest line that is taken: several times what a recovery code has.
const LINE_MAX_BYTES: usize = 1024;

/// Asks at the terminal of this process, whatever its standard streams are, and reads one line without echo.
///
/// # Errors
/// There is no terminal, it can't be read, or the line is too long.
pub(crate) fn hidden(question: &str) -> anyhow::Result<Zeroizing<String>> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let tty = tty.context(
        "there is no terminal to ask for the recovery code at; give it in a file or on standard input with \
         --recovery-code-file",
    )?;
    let line = {
        // Before the question: whoever answers at once is not seen either.
        let _quiet = Quiet::of(&tty).context("cannot switch off the terminal's echo")?;
        write!(&tty, "{question}: ").context("cannot write to the terminal")?;
        read_line(&mut &tty)
    };
    let _ = writeln!(&tty);
    line
}

/// A terminal without echo; with it again when this is dropped.
struct Quiet<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn of(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        // What was typed before the question is no answer to it.
        tcsetattr(tty, OptionalActions::Flush, &quiet)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.tty, OptionalActions::Now, &self.before);
    }
}

/// Reads octet by octet: a buffer would keep a copy of what was typed, and take what is meant for others.
#[allow(clippy::unbuffered_bytes, reason = "a line typed by a person")]
fn read_line(input: &mut impl io::Read) -> anyhow::Result<Zeroizing<String>> {
    // All room at once: growing would leave copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX_BYTES));
    for octet in input.bytes() {
        match octet.context("cannot read from the terminal")? {
            b'\n' => break,
            _ if line.len() == LINE_MAX_BYTES => bail!("the line is longer than {LINE_MAX_BYTES} octets"),
            octet => line.push(octet),
        }
    }
    match std::str::from_utf8(&line) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => bail!("what was typed is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read() {
        let long = "x".repeat(LINE_MAX_BYTES + 1);
        #[rustfmt::skip]
        let rows: [(&[u8], Option<&str>); 6] = [
            (b"code\nmore", Some("code")), (b"code", Some("code")), (b"", Some("")), (b"\n", Some("")),
            (b"\xff\n", None), (long.as_bytes(), None),
        ];
        for (mut typed, want) in rows {
            let found = read_line(&mut typed).ok();
            assert_eq!(found.as_ref().map(|line| line.as_str()), want);
        }
    }
}
