//! Which names a program gives a meaning to, anywhere in it.
//!
//! Scopes are not told apart: a name that is bound somewhere might be meant everywhere, and then
//! nothing certain can be said about it.

use std::collections::HashMap;

use ruff_python_ast::{
    Alias, ExceptHandler, Expr, ExprContext, ModModule, Parameter, Pattern, Stmt, TypeParam,
    visitor::{self, Visitor},
};

/// How a name gets its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// `async def` at any level but in a class.
    AsyncFunction,
    /// `import name`.
    Module,
    /// `from module import name`; what exactly is in [`Bindings::imported`].
    Imported,
    /// Anything else.
    Other,
}

/// The bindings of a program.
#[derive(Default)]
pub(super) struct Bindings<'a> {
    bound: HashMap<&'a str, Vec<Binding>>,
    loads: HashMap<&'a str, usize>,
    imported: HashMap<&'a str, (&'a str, &'a str)>,
    modules: HashMap<&'a str, &'a str>,
    is_in_class: bool,
    /// Whether names may come from text, so that nothing is certain.
    pub(super) is_dynamic: bool,
}

impl<'a> Bindings<'a> {
    pub(super) fn of(module: &'a ModModule) -> Self {
        let mut bindings = Self::default();
        bindings.visit_body(&module.body);
        bindings.is_dynamic = ["exec", "eval", "globals", "locals"]
            .iter()
            .any(|name| bindings.loads.contains_key(name));
        bindings
    }

    pub(super) fn is_bound(&self, name: &str) -> bool {
        self.bound.contains_key(name)
    }

    /// Names bound in the program.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.bound.keys().copied()
    }

    /// How often a name is read.
    pub(super) fn loads(&self, name: &str) -> usize {
        self.loads.get(name).copied().unwrap_or(0)
    }

    /// The one meaning of a name, if it has only one.
    pub(super) fn only(&self, name: &str) -> Option<Binding> {
        match self.bound.get(name).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        }
    }

    /// The module and member that an expression certainly means: `asyncio.sleep`, or `sleep`
    /// after `from asyncio import sleep`.
    pub(super) fn member(&self, expr: &'a Expr) -> Option<(&'a str, &'a str)> {
        match expr {
            Expr::Attribute(attribute) => {
                let Expr::Name(base) = attribute.value.as_ref() else { return None };
                (self.only(&base.id) == Some(Binding::Module))
                    .then(|| self.modules.get(base.id.as_str()))
                    .flatten()
                    .map(|module| (*module, attribute.attr.as_str()))
            }
            Expr::Name(name) if self.only(&name.id) == Some(Binding::Imported) => {
                self.imported.get(name.id.as_str()).copied()
            }
            _ => None,
        }
    }

    fn bind(&mut self, name: &'a str, binding: Binding) {
        self.bound.entry(name).or_default().push(binding);
    }

    fn import(&mut self, alias: &'a Alias) {
        let module = alias.name.as_str();
        match &alias.asname {
            Some(name) => {
                self.bind(name, Binding::Module);
                self.modules.insert(name, module);
            }
            None => {
                let top = module.split('.').next().unwrap_or(module);
                // `import os` next to `import os.path` is one meaning.
                if self.only(top) != Some(Binding::Module) {
                    self.bind(top, Binding::Module);
                }
                self.modules.insert(top, top);
            }
        }
    }
}

impl<'a> Visitor<'a> for Bindings<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(function) => {
                let is_coroutine =
                    function.is_async && function.decorator_list.is_empty() && !self.is_in_class;
                let binding = if is_coroutine { Binding::AsyncFunction } else { Binding::Other };
                self.bind(&function.name, binding);
                let outer = std::mem::replace(&mut self.is_in_class, false);
                visitor::walk_stmt(self, stmt);
                self.is_in_class = outer;
                return;
            }
            Stmt::ClassDef(class) => {
                self.bind(&class.name, Binding::Other);
                let outer = std::mem::replace(&mut self.is_in_class, true);
                visitor::walk_stmt(self, stmt);
                self.is_in_class = outer;
                return;
            }
            Stmt::Import(import) => import.names.iter().for_each(|alias| self.import(alias)),
            Stmt::ImportFrom(import) => {
                for alias in &import.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    self.bind(name, Binding::Imported);
                    if let Some(module) = &import.module {
                        self.imported.insert(name, (module, &alias.name));
                    }
                }
            }
            Stmt::Global(global) => {
                global.names.iter().for_each(|name| self.bind(name, Binding::Other));
            }
            Stmt::Nonlocal(nonlocal) => {
                nonlocal.names.iter().for_each(|name| self.bind(name, Binding::Other));
            }
            _ => {}
        }
        visitor::walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Name(name) = expr {
            match name.ctx {
                ExprContext::Load => *self.loads.entry(name.id.as_str()).or_default() += 1,
                _ => self.bind(&name.id, Binding::Other),
            }
        }
        visitor::walk_expr(self, expr);
    }

    fn visit_parameter(&mut self, parameter: &'a Parameter) {
        self.bind(&parameter.name, Binding::Other);
        visitor::walk_parameter(self, parameter);
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(inner) = handler;
        if let Some(name) = &inner.name {
            self.bind(name, Binding::Other);
        }
        visitor::walk_except_handler(self, handler);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        let name = match pattern {
            Pattern::MatchStar(star) => star.name.as_ref(),
            Pattern::MatchAs(alias) => alias.name.as_ref(),
            Pattern::MatchMapping(mapping) => mapping.rest.as_ref(),
            _ => None,
        };
        if let Some(name) = name {
            self.bind(name, Binding::Other);
        }
        visitor::walk_pattern(self, pattern);
    }

    fn visit_type_param(&mut self, parameter: &'a TypeParam) {
        self.bind(parameter.name(), Binding::Other);
        visitor::walk_type_param(self, parameter);
    }
}
