//! The same for people: both servers beside each other.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use crate::args::Load;
use crate::figures::{self, number};
use crate::row::Row;
use crate::server::Mode;

type Figure = (&'static str, fn(&Row) -> Option<f64>);

const FIGURES: [Figure; 18] = [
    ("fork us", |row| Some(row.fork_us as f64)),
    ("worst request at the fork us", |row| row.worst_at_fork_us),
    ("p99 while saving us", |row| row.save_p99_us),
    ("p99.9 while saving us", |row| row.save_p999_us),
    ("worst while saving us", |row| row.save_worst_us),
    ("p99 while merging us", |row| row.merge_p99_us),
    ("p99.9 while merging us", |row| row.merge_p999_us),
    ("worst while merging us", |row| row.merge_worst_us),
    ("worst while saving or merging us", worst),
    ("p99 at rest us", |row| row.rest_p99_us),
    ("p99.9 at rest us", |row| row.rest_p999_us),
    ("worst at rest us", |row| row.rest_worst_us),
    ("save ms", |row| Some(row.save_ms)),
    ("extra memory MiB", |row| Some(row.extra_mib)),
    ("requests/s at rest", |row| Some(row.ops_per_s_rest)),
    ("requests/s while saving", |row| Some(row.ops_per_s_save)),
    ("CPU/request at rest us", |row| row.cpu_us_per_op_rest),
    ("CPU/request while saving us", |row| row.cpu_us_per_op_save),
];

fn worst(row: &Row) -> Option<f64> {
    row.save_worst_us
        .into_iter()
        .chain(row.merge_worst_us)
        .reduce(f64::max)
}

/// A table for each size and load.
pub fn print(rows: &[Row]) {
    let mut groups: BTreeMap<(u64, Load), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups
            .entry((row.data_mib, row.load))
            .or_default()
            .push(row);
    }
    for ((mib, load), rows) in groups {
        let saves = rows.iter().filter(|row| row.mode == Mode::Plain).count();
        println!(
            "{}, {mib} MiB, load: {}, saves: {saves}; median (least-most)",
            rows[0].server,
            load.name()
        );
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["", "plain", "preloaded", "plain / preloaded"]);
        for (name, value) in FIGURES {
            let of = |mode| {
                let measured = rows.iter().filter(|row| row.mode == mode);
                Samples::new(measured.filter_map(|row| value(row)))
            };
            let (plain, preloaded) = (of(Mode::Plain), of(Mode::Preloaded));
            let ratio = plain.median() / preloaded.median();
            table.add_row([
                name.to_owned(),
                plain.text(),
                preloaded.text(),
                if ratio.is_finite() {
                    number(ratio)
                } else {
                    "-".to_owned()
                },
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}\n");
    }
    println!("A plain server merges nothing: there it is the time after the save.");
}

struct Samples {
    ascending: Vec<f64>,
}

impl Samples {
    fn new(values: impl Iterator<Item = f64>) -> Self {
        let mut ascending: Vec<f64> = values.collect();
        ascending.sort_by(f64::total_cmp);
        Self { ascending }
    }

    /// Not a number where there is none.
    fn median(&self) -> f64 {
        if self.ascending.is_empty() {
            return f64::NAN;
        }
        figures::median(&self.ascending)
    }

    fn text(&self) -> String {
        match self.ascending[..] {
            [] => "-".to_owned(),
            [one] => number(one),
            [least, .., most] => {
                let median = number(self.median());
                format!("{median} ({}-{})", number(least), number(most))
            }
        }
    }
}
