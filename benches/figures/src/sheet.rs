//! A table, for the terminal and for a page.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use std::ops::Range;

/// A line under the head and nothing else, so that fifty rows are fifty lines.
const PLAIN: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table of words. A cell may have several lines.
#[derive(Clone, Debug)]
pub struct Sheet {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// The columns of numbers.
    right: Vec<Range<usize>>,
}

impl Sheet {
    /// A table without rows.
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new(), right: Vec::new() }
    }

    /// These columns have numbers, which are set to the right.
    pub fn numbers(mut self, columns: Range<usize>) -> Self {
        self.right.push(columns);
        self
    }

    /// A row with as many cells as the head has.
    pub fn add<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(PLAIN);
        table.set_header(&self.head);
        table.add_rows(&self.rows);
        for column in self.right.iter().cloned().flatten() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    /// For a page in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', "<br>")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let is_number = |column| self.right.iter().any(|columns| columns.contains(&column));
        let mark = |column| if is_number(column) { "--:" } else { "---" }.to_owned();
        let marks: Vec<String> = (0..self.head.len()).map(mark).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{}{rows}", line(&self.head), line(&marks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_cells_are_in_both() {
        let mut sheet = Sheet::new(["what", "ns"]).numbers(1..2);
        sheet.add(["a|b", "7"]);
        sheet.add(["two\nlines", "19"]);
        assert_eq!(sheet.markdown(), "| what | ns |\n| --- | --: |\n| a\\|b | 7 |\n| two<br>lines | 19 |\n");
        let text = sheet.text();
        let line = text.lines().find(|line| line.contains("a|b")).unwrap();
        assert!(line.trim_end().ends_with(" 7") && text.contains("lines"), "{text}");
    }
}
