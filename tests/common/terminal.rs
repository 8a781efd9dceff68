//! Text that acts on whoever reads it, and what a line may hold that does not.

/// Clears the screen, colours, sets the title, ends the line, goes back on it, and turns the text round.
pub(crate) const NASTY: &str = "a\u{1b}[2J\u{1b}[31m\u{1b}]0;t\u{7}\r\nb\u{9b}31m\u{7f}\u{202e}c\u{2066}\u{2028}";

/// What is said stays on its lines, leaves the terminal alone, and is no book.
#[track_caller]
pub(crate) fn assert_harmless<'a>(what: &str, lines: impl IntoIterator<Item = &'a str>) {
    for line in lines {
        let acts = |c: char| {
            c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        assert!(!line.contains(acts), "{what}: {line:?}");
        assert!(line.len() < 16 * 1024, "{what}: a line of {} bytes: {line:.200}", line.len());
        assert!(!line.contains("panicked"), "{what}: {line}");
    }
}
