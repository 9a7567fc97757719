//! Names that are called or read but exist nowhere.

use std::collections::{HashMap, HashSet};

use durable_core::{Definition, report::nearest};
use ruff_python_ast::{
    Expr, ModModule,
    visitor::{self, Visitor},
};
use ruff_text_size::Ranged as _;

use super::{Bindings, Problem, Report, is_builtin};

pub(super) fn check(
    module: &ModModule,
    definition: &Definition,
    bindings: &Bindings<'_>,
    report: &mut Report<'_>,
) {
    if !bindings.is_dynamic {
        let builtins = HashMap::new();
        let reported = HashSet::new();
        Names { definition, bindings, report, builtins, reported }.visit_body(&module.body);
    }
}

struct Names<'r, 's, 'b> {
    definition: &'r Definition,
    bindings: &'r Bindings<'b>,
    report: &'r mut Report<'s>,
    /// What the interpreter said about names so far.
    builtins: HashMap<String, bool>,
    /// Names that have been complained about: once is enough.
    reported: HashSet<String>,
}

impl Names<'_, '_, '_> {
    fn is_known(&mut self, name: &str) -> bool {
        self.bindings.is_bound(name)
            || self.definition.may_call(name)
            || self.definition.inputs.iter().any(|input| input == name)
            || (name.starts_with("__") && name.ends_with("__"))
            || *self.builtins.entry(name.to_owned()).or_insert_with(|| is_builtin(name))
    }

    fn called(&mut self, name: &str, range: ruff_text_size::TextRange) {
        if self.is_known(name) || !self.reported.insert(name.to_owned()) {
            return;
        }
        let functions = self.definition.functions.keys().map(String::as_str);
        let nearest = nearest(name, functions.chain(self.bindings.names()));
        let hint = if PYTHON_BUILTINS.contains(&name) {
            format!("the sandbox has no builtin '{name}'; a declared function can do what it did")
        } else if let Some(nearest) = nearest {
            format!("did you mean '{nearest}'? Otherwise add '{name}' to external_functions")
        } else {
            format!("add '{name}' to external_functions, or define it in the program")
        };
        let message = format!("function '{name}' is called but not declared");
        self.report.add(Problem { range: range.into(), message, hint });
    }

    fn read(&mut self, name: &str, range: ruff_text_size::TextRange) {
        if self.is_known(name) || !self.reported.insert(name.to_owned()) {
            return;
        }
        let inputs = self.definition.inputs.iter().map(String::as_str);
        let hint = match nearest(name, inputs.chain(self.bindings.names())) {
            Some(nearest) => {
                format!("did you mean '{nearest}'? Otherwise pass '{name}' as an input")
            }
            None => format!("pass '{name}' as an input, or assign it in the program"),
        };
        let message = format!("'{name}' is read, but it is neither an input nor assigned anywhere");
        self.report.add(Problem { range: range.into(), message, hint });
    }

    /// `asyncio.sleep` where nobody wrote `import asyncio`.
    fn member_of(&mut self, base: &str, range: ruff_text_size::TextRange) {
        if monty::builtin_module_names().contains(&base)
            && !self.is_known(base)
            && self.reported.insert(base.to_owned())
        {
            self.report.add(Problem {
                range: range.into(),
                message: format!("the module '{base}' is used but not imported"),
                hint: format!("write `import {base}` at the top"),
            });
        }
    }
}

impl<'a> Visitor<'a> for Names<'_, '_, '_> {
    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Call(call) => {
                if let Expr::Name(name) = call.func.as_ref() {
                    self.called(&name.id, name.range());
                }
            }
            Expr::Attribute(attribute) => {
                if let Expr::Name(base) = attribute.value.as_ref() {
                    self.member_of(&base.id, base.range());
                }
            }
            Expr::Name(name) if name.ctx.is_load() => self.read(&name.id, name.range()),
            _ => {}
        }
        visitor::walk_expr(self, expr);
    }

    // Annotations are never evaluated as calls.
    fn visit_annotation(&mut self, _annotation: &'a Expr) {}
}

/// Builtins of CPython that programs are likely to call.
const PYTHON_BUILTINS: [&str; 22] = [
    "aiter",
    "anext",
    "ascii",
    "breakpoint",
    "bytearray",
    "callable",
    "classmethod",
    "compile",
    "delattr",
    "dir",
    "exit",
    "globals",
    "help",
    "input",
    "issubclass",
    "memoryview",
    "property",
    "quit",
    "slice",
    "staticmethod",
    "super",
    "vars",
];
