//! Tables for people.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// No border, and a line under the head only.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─'));

/// A list of labels and what they stand for.
pub fn list() -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table
}

/// A table with a head, all of it text.
pub fn table_of_text(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(head.iter().copied());
    table
}

/// A table with a head, a label in the first column, and figures in the others.
pub fn table_of_figures(head: &[&str]) -> Table {
    let mut table = table_of_text(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The text of a table, without the spaces that fill up its last column.
pub fn render(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_and_no_line_ends_in_spaces() {
        let mut table = table_of_figures(&["", "count"]);
        table.add_row(["sent", "90,000"]).add_row(["lost", "0"]);
        let text = render(&mut table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[2], "sent  90,000");
        assert_eq!(lines[3], "lost       0");
    }
}
