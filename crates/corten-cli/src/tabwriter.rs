//! Elastic columns as Go's `text/tabwriter` makes them: cells end with a tab, a column is a run of adjacent lines
//! that have the cell, and its width is that of its widest cell plus padding, at least the minimum.

/// Collects text with tabs and formats it.
#[derive(Debug)]
pub(crate) struct TabWriter {
    min_width: usize,
    padding: usize,
    text: String,
}

impl TabWriter {
    /// Docker's tables have a minimum of 10 and a padding of 3.
    pub(crate) fn new(min_width: usize, padding: usize) -> Self {
        Self { min_width, padding, text: String::new() }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The aligned text.
    pub(crate) fn finish(self) -> String {
        let lines: Vec<Vec<&str>> = self.text.split('\n').map(|line| line.split('\t').collect()).collect();
        let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
        self.measure(&lines, &mut widths, 0, 0, lines.len());
        let mut out = String::with_capacity(self.text.len() * 2);
        for (i, cells) in lines.iter().enumerate() {
            for (j, cell) in cells.iter().enumerate() {
                out.push_str(cell);
                if j + 1 < cells.len() {
                    let pad = widths[i][j].saturating_sub(cell.chars().count());
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
            if i + 1 < lines.len() {
                out.push('\n');
            }
        }
        out
    }

    /// Sets the widths of `column` and of those right of it for the lines `from..to`.
    fn measure(&self, lines: &[Vec<&str>], widths: &mut [Vec<usize>], column: usize, from: usize, to: usize) {
        let mut i = from;
        while i < to {
            // The last cell of a line is not terminated by a tab: it is no part of a column.
            if column + 1 >= lines[i].len() {
                i += 1;
                continue;
            }
            let start = i;
            let mut width = self.min_width;
            while i < to && column + 1 < lines[i].len() {
                let cell = lines[i][column].chars().count();
                width = width.max(cell + self.padding);
                i += 1;
            }
            for line in &mut widths[start..i] {
                line[column] = width;
            }
            self.measure(lines, widths, column + 1, start, i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let mut t = TabWriter::new(10, 3);
        t.push("ID\tNAME\tX\nabcdefghijkl\tb\ty\n");
        assert_eq!(t.finish(), "ID             NAME      X\nabcdefghijkl   b         y\n");
        let mut t = TabWriter::new(0, 1);
        t.push("a\tb\n\nccc\td\n");
        assert_eq!(t.finish(), "a b\n\nccc d\n");
    }
}
