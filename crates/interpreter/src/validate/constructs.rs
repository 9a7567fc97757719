//! Python that the sandbox doesn't know, and what to write instead.

use ruff_python_ast::{
    Comprehension, Expr, ModModule, Stmt,
    visitor::{self, Visitor},
};
use ruff_text_size::{Ranged, TextRange};

use super::{Bindings, Problem, Report};

pub(super) fn check(module: &ModModule, bindings: &Bindings<'_>, report: &mut Report<'_>) {
    Constructs { bindings, report, is_in_plain_function: false }.visit_body(&module.body);
}

struct Constructs<'r, 's, 'b> {
    bindings: &'r Bindings<'b>,
    report: &'r mut Report<'s>,
    /// Whether the innermost function around is a `def` or a `lambda`.
    is_in_plain_function: bool,
}

/// What `asyncio` has here.
const ASYNCIO: [&str; 3] = ["gather", "run", "sleep"];

const LOOP_HINT: &str =
    "await a function that returns a list, then loop over it with a plain `for`";

impl Constructs<'_, '_, '_> {
    fn unknown(&mut self, range: TextRange, what: &str, hint: &str) {
        let message = format!("{what} not available in a workflow");
        self.report.add(Problem { range: range.into(), message, hint: hint.to_owned() });
    }

    fn class(&mut self, class: &ruff_python_ast::StmtClassDef) {
        if let Some(arguments) = class.arguments.as_ref().filter(|a| !a.is_empty()) {
            let hint = "raise a builtin exception such as ValueError, use @dataclass or a plain \
                        class, and share code through functions";
            self.unknown(arguments.range(), "class inheritance is", hint);
        }
        for stmt in &class.body {
            let Stmt::FunctionDef(method) = stmt else { continue };
            for decorator in &method.decorator_list {
                let hint = "write a plain method, or a function outside the class";
                self.unknown(decorator.range(), "decorators on methods are", hint);
            }
        }
    }

    fn import(&mut self, module: &str, range: TextRange) {
        let known = monty::builtin_module_names();
        let top = module.split('.').next().unwrap_or(module);
        if known.contains(&module) || (known.contains(&top) && top == module) || top == "__future__"
        {
            return;
        }
        let mut known: Vec<&str> = known.into_iter().filter(|name| *name != "gc").collect();
        known.sort_unstable();
        let hint = format!(
            "do that work in a declared function; the modules here are {}",
            known.join(", ")
        );
        self.unknown(range, &format!("the module '{module}' is"), &hint);
    }

    fn asyncio_member(&mut self, member: &str, range: TextRange) {
        let hint = match member {
            name if ASYNCIO.contains(&name) => return,
            "create_task" | "ensure_future" | "as_completed" | "TaskGroup" | "wait" => {
                "pass the calls to `await asyncio.gather(...)`: they run at the same time, and \
                 each goes on as soon as its own result is there"
            }
            "wait_for" | "timeout" | "timeout_at" => {
                "give the call a `_timeout=seconds` argument, or race it against \
                 `asyncio.sleep` in a gather whose branches raise when they are done"
            }
            "Queue" | "Lock" | "Event" | "Semaphore" | "BoundedSemaphore" | "Condition" => {
                "there is one thread of control between two awaits, so plain lists and variables \
                 are enough; limit how much runs at once by gathering in batches"
            }
            "to_thread" => "call a declared function: it runs outside the workflow",
            "shield" => "nothing cancels a call: await it directly",
            _ => "of asyncio there are gather, run and sleep",
        };
        self.unknown(range, &format!("asyncio.{member} is"), hint);
    }

    fn call(&mut self, call: &ruff_python_ast::ExprCall) {
        if self.bindings.member(&call.func) == Some(("time", "sleep")) {
            let hint = "write `await asyncio.sleep(seconds)`: it survives a restart";
            self.unknown(call.func.range(), "time.sleep() would block, it is", hint);
        }
    }
}

impl<'a> Visitor<'a> for Constructs<'_, '_, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Delete(delete) => {
                let hint = "use `d.pop(key)` or `l.pop(index)`, or assign None";
                self.unknown(delete.range(), "the `del` statement is", hint);
            }
            Stmt::For(each) if each.is_async => {
                self.unknown(each.iter.range(), "`async for` is", LOOP_HINT);
            }
            Stmt::With(with) if with.is_async => {
                let hint = "await what sets it up, then use try/finally to await what ends it";
                let items = with.items.first().map_or(with.range(), Ranged::range);
                self.unknown(items, "`async with` is", hint);
            }
            Stmt::Try(tries) if tries.is_star => {
                let range = tries.handlers.first().map_or(tries.range(), Ranged::range);
                self.unknown(range, "`except*` is", "use `except` around each await");
            }
            Stmt::TypeAlias(alias) => {
                self.unknown(alias.range(), "the `type` statement is", "write `Name = type`");
            }
            Stmt::ClassDef(class) => self.class(class),
            Stmt::FunctionDef(function) => {
                let outer = std::mem::replace(&mut self.is_in_plain_function, !function.is_async);
                visitor::walk_stmt(self, stmt);
                self.is_in_plain_function = outer;
                return;
            }
            Stmt::Import(import) => {
                for alias in &import.names {
                    self.import(&alias.name, alias.range());
                }
            }
            Stmt::ImportFrom(import) => {
                for alias in &import.names {
                    if &alias.name == "*" {
                        let hint = "import the names that are used";
                        self.unknown(alias.range(), "`import *` is", hint);
                    }
                }
                match &import.module {
                    Some(module) if import.level == 0 => {
                        self.import(module, module.range());
                        if module == "asyncio" {
                            for alias in import.names.iter().filter(|alias| &alias.name != "*") {
                                self.asyncio_member(&alias.name, alias.range());
                            }
                        }
                    }
                    _ => {
                        let hint = "a workflow is one file: put what it needs into it";
                        self.unknown(import.range(), "a relative import is", hint);
                    }
                }
            }
            _ => {}
        }
        visitor::walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Yield(_) | Expr::YieldFrom(_) => {
                let hint = "collect the values in a list and return it";
                self.unknown(expr.range(), "`yield` is", hint);
            }
            Expr::Await(_) if self.is_in_plain_function => self.report.add(Problem {
                range: expr.range().into(),
                message: "`await` in a function that is not async".to_owned(),
                hint: "write `async def`, and await the call of that function too".to_owned(),
            }),
            Expr::Lambda(_) => {
                let outer = std::mem::replace(&mut self.is_in_plain_function, true);
                visitor::walk_expr(self, expr);
                self.is_in_plain_function = outer;
                return;
            }
            Expr::TString(_) => {
                self.unknown(expr.range(), "a template string is", "use an f-string");
            }
            Expr::Attribute(attribute) => {
                if let Some(("asyncio", member)) = self.bindings.member(expr) {
                    self.asyncio_member(member, attribute.range());
                }
            }
            Expr::Call(call) => self.call(call),
            _ => {}
        }
        visitor::walk_expr(self, expr);
    }

    fn visit_comprehension(&mut self, comprehension: &'a Comprehension) {
        if comprehension.is_async {
            let range = comprehension.iter.range();
            self.unknown(range, "an `async for` comprehension is", LOOP_HINT);
        }
        visitor::walk_comprehension(self, comprehension);
    }
}
