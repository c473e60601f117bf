//! Where the result goes: any number of files, each with its form.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::csv::Csv;
use super::greppable::Greppable;
use super::human::Human;
use super::json::Json;
use super::xml::Xml;
use super::{Form, HostReport, Setting, Summary};
use crate::exit::Failure;
use crate::output::cannot_create;
use crate::scan::args::ScanArgs;

/// All the places the result is written to.
pub struct Outputs(Vec<Output>);

struct Output {
    form: Box<dyn Form>,
    /// What the user called it.
    place: String,
    to: BufWriter<Box<dyn Write>>,
}

impl Outputs {
    /// Opens what the flags name, before the work starts, so that a wrong path costs no scan.
    ///
    /// Standard output takes one form: the table for people, which goes there by default, gives
    /// way to another that is sent there.
    pub fn open(args: &ScanArgs) -> Result<Self, Failure> {
        let asked = [
            ("-oX", &args.xml, new_form::<Xml> as fn() -> Box<dyn Form>),
            ("-oG", &args.greppable, new_form::<Greppable>),
            ("-oJ", &args.json_file, new_form::<Json>),
            ("-oC", &args.csv, new_form::<Csv>),
        ];
        let mut outputs = Vec::new();
        for (flag, paths, form) in asked {
            for path in paths {
                outputs.push(Output::open(flag, path, form())?);
            }
        }
        for base in &args.all_forms {
            let forms = [
                ("nmap", new_form::<Human> as fn() -> Box<dyn Form>),
                ("xml", new_form::<Xml>),
                ("gnmap", new_form::<Greppable>),
            ];
            for (ending, form) in forms {
                // The base may have a dot of its own, which stays.
                let mut path = base.clone().into_os_string();
                path.push(format!(".{ending}"));
                outputs.push(Output::open("-oA", Path::new(&path), form())?);
            }
        }
        let is_taken = outputs.iter().any(|output| output.place == "-");
        let is_by_default = !args.output.json && args.output.output.as_os_str() == "-";
        if !(is_taken && is_by_default) {
            let form = match args.output.json {
                true => new_form::<Json>(),
                false => new_form::<Human>(),
            };
            outputs.push(Output::open("-o", &args.output.output, form)?);
        }
        match outputs.iter().filter(|output| output.place == "-").count() {
            0 | 1 => Ok(Self(outputs)),
            _ => Err(Failure::usage(
                "standard output takes one form of the result; send the others to files",
            )),
        }
    }

    /// Writes what comes first.
    pub fn begin(&mut self, setting: &Setting) -> Result<(), Failure> {
        self.each(|form, to| form.begin(to, setting))
    }

    /// Writes a host.
    pub fn host(&mut self, setting: &Setting, host: &HostReport) -> Result<(), Failure> {
        self.each(|form, to| form.host(to, setting, host))
    }

    /// Writes what comes last.
    pub fn end(&mut self, setting: &Setting, summary: &Summary) -> Result<(), Failure> {
        self.each(|form, to| form.end(to, setting, summary))
    }

    /// What has been written so far can be read.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.each(|_, to| to.flush())
    }

    fn each(
        &mut self,
        mut write: impl FnMut(&mut dyn Form, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        for Output { form, place, to } in &mut self.0 {
            write(&mut **form, to).map_err(|error| {
                let place = match place.as_str() {
                    "-" => "standard output",
                    path => path,
                };
                Failure::failed(format!("cannot write the result to {place}: {error}"))
            })?;
        }
        Ok(())
    }
}

impl Output {
    fn open(flag: &str, path: &Path, form: Box<dyn Form>) -> Result<Self, Failure> {
        let to: Box<dyn Write> = match path.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => {
                Box::new(File::create(path).map_err(|error| cannot_create(flag, path, &error))?)
            }
        };
        Ok(Self {
            form,
            place: path.display().to_string(),
            to: BufWriter::new(to),
        })
    }
}

fn new_form<F: Form + Default + 'static>() -> Box<dyn Form> {
    Box::<F>::default()
}
