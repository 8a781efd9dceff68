//! Splits a manifest file into its documents, so that a broken one costs only itself.
//!
//! The YAML specification forbids `---` and `...` at the start of a line inside a document, also inside of quoted and
//! block scalars, so lines alone decide. Bytes are split before they are decoded: text that is no UTF-8 is one document's
//! problem too.

/// Where something stands in a file. Lines and columns count from 1; line 0 stands for the whole file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Position {
    /// This position, of a text that itself starts at `start` of the file.
    pub(super) fn after(self, start: Self) -> Self {
        if self.line <= 1 {
            Self { line: start.line, column: start.column + self.column.saturating_sub(1) }
        } else {
            Self { line: start.line + self.line - 1, column: self.column }
        }
    }

    /// The position right behind `text`.
    pub(super) fn behind(text: &[u8]) -> Self {
        let line = text.iter().filter(|&&b| b == b'\n').count() as u64 + 1;
        let last = text.rsplit(|&b| b == b'\n').next().unwrap_or_default();
        // Columns count characters, of which each has one byte that is no UTF-8 continuation.
        let column = last.iter().filter(|&&b| b & 0xc0 != 0x80).count() as u64 + 1;
        Self { line, column }
    }
}

/// One document of a file, never an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its bytes, from its first character on that is neither blank nor comment nor marker.
    pub(super) text: &'a [u8],
    /// Where that character stands.
    pub(super) start: Position,
}

/// The documents of a file, without the empty ones.
pub(super) fn documents(file: &[u8]) -> Vec<Document<'_>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut documents = Vec::new();
    let mut chunk = Chunk { from: 0, line: 1 };
    let mut at = 0;
    for (number, line) in (1_u64..).zip(file.split_inclusive(|&b| b == b'\n')) {
        match marker(line) {
            Some(Marker::Start) => {
                documents.extend(chunk.document(file, at));
                chunk = Chunk { from: at, line: number };
            }
            Some(Marker::End) => {
                documents.extend(chunk.document(file, at));
                chunk = Chunk { from: at + line.len(), line: number + 1 };
            }
            None => {}
        }
        at += line.len();
    }
    documents.extend(chunk.document(file, at));
    documents
}

enum Marker {
    Start,
    End,
}

fn marker(line: &[u8]) -> Option<Marker> {
    let (start, rest) = line.split_at_checked(3)?;
    let marker = match start {
        b"---" => Marker::Start,
        b"..." => Marker::End,
        _ => return None,
    };
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(marker)
}

/// What lies between two markers; `line` is the number of its first line.
struct Chunk {
    from: usize,
    line: u64,
}

impl Chunk {
    fn document<'a>(&self, file: &'a [u8], to: usize) -> Option<Document<'a>> {
        let mut at = self.from;
        for (number, line) in (self.line..).zip(file[self.from..to].split_inclusive(|&b| b == b'\n')) {
            let skip = if at == self.from && matches!(marker(line), Some(Marker::Start)) { 3 } else { 0 };
            let blank = line[skip..].iter().take_while(|b| b.is_ascii_whitespace()).count() + skip;
            match line.get(blank) {
                // A directive (`%YAML 1.2`) stands before the marker and says nothing that is used here.
                None | Some(b'#') => {}
                Some(b'%') if blank == 0 => {}
                Some(_) => {
                    // The indentation of the first line belongs to the text: without it, the lines below would be deeper.
                    let (from, column) = if skip == 0 { (at, 1) } else { (at + blank, blank as u64 + 1) };
                    return Some(Document { text: &file[from..to], start: Position { line: number, column } });
                }
            }
            at += line.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file, and the text, line and column of each of its documents.
    type Row<'a> = (&'a str, &'a [(&'a str, u64, u64)]);

    #[test]
    fn lines_alone_split_a_file() {
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            ("",                             &[]),
            ("---\n",                        &[]),
            ("# only\n\n  # comments\n",     &[]),
            ("%YAML 1.2\n---\na: 1\n",       &[("a: 1\n", 3, 1)]),
            ("a: 1",                         &[("a: 1", 1, 1)]),
            ("\u{feff}a: 1",                 &[("a: 1", 1, 1)]),
            ("# c\n\na: 1\n",                &[("a: 1\n", 3, 1)]),
            ("  a: 1\n  b: 2\n",             &[("  a: 1\n  b: 2\n", 1, 1)]),
            ("a: 1\n---\nb: 2\n",            &[("a: 1\n", 1, 1), ("b: 2\n", 3, 1)]),
            ("a: 1\r\n---\r\nb: 2\r\n",      &[("a: 1\r\n", 1, 1), ("b: 2\r\n", 3, 1)]),
            ("---\n---\na: 1\n---\n---\n",   &[("a: 1\n", 3, 1)]),
            ("--- {a: 1}\n--- # c\nb: 2\n",  &[("{a: 1}\n", 1, 5), ("b: 2\n", 3, 1)]),
            ("a: 1\n...\nb: 2\n...\n",       &[("a: 1\n", 1, 1), ("b: 2\n", 3, 1)]),
            ("a: |\n  ---\n  x\n",           &[("a: |\n  ---\n  x\n", 1, 1)]),
            ("a: ---\n----\n",               &[("a: ---\n----\n", 1, 1)]),
            ("---a: 1\n",                    &[("---a: 1\n", 1, 1)]),
        ];
        for (file, want) in rows {
            let got: Vec<_> = documents(file.as_bytes())
                .iter()
                .map(|d| (std::str::from_utf8(d.text).unwrap(), d.start.line, d.start.column))
                .collect();
            assert_eq!(got, *want, "{file:?}");
        }
    }

    #[test]
    fn positions_add_up() {
        let start = Position { line: 7, column: 5 };
        assert_eq!(Position { line: 1, column: 3 }.after(start), Position { line: 7, column: 7 });
        assert_eq!(Position { line: 2, column: 3 }.after(start), Position { line: 8, column: 3 });
        assert_eq!(Position::behind("a\nö b".as_bytes()), Position { line: 2, column: 4 });
        assert_eq!(Position::behind(b""), Position { line: 1, column: 1 });
    }
}
