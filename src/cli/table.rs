//! Aligned columns of text.

use crate::types::is_unprintable;

/// How a column is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a heading; as wide as its widest cells.
pub(super) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A heading that ends with `>` belongs to a column of numbers, which is aligned to the right.
    pub(super) fn new(headings: &[&str]) -> Self {
        let columns = headings.iter().map(|name| if name.ends_with('>') { Align::Right } else { Align::Left });
        let names = headings.iter().map(|name| name.trim_end_matches('>').to_owned());
        Self { columns: columns.collect(), rows: vec![names.collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // What a peer or a file put into a name must not speak to the terminal.
        let clean = |cell: String| cell.replace(is_unprintable, "?");
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), align) in row.iter().zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}")),
                    Align::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "bytes>"]);
        table.row(["a".into(), "10".into()]);
        table.row(["longer\x1b".into(), "7".into()]);
        assert_eq!(table.to_string(), "name     bytes\na           10\nlonger?      7\n");
    }
}
