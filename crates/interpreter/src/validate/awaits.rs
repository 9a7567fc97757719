//! Calls whose result is never awaited.
//!
//! Calling a declared function, an `async def` of the program or `asyncio.sleep` gives something
//! to be awaited. Passing that on (to `gather`, into a list, out of a function) is fine; using it
//! as if it were the result, or dropping it, is always a mistake.

use durable_core::Definition;
use ruff_python_ast::{
    CmpOp, Comprehension, Expr, InterpolatedStringElement, ModModule, Stmt, UnaryOp,
    visitor::{self, Visitor},
};
use ruff_text_size::Ranged as _;

use super::{Bindings, Problem, Report, bindings::Binding};

pub(super) fn check(
    module: &ModModule,
    definition: &Definition,
    bindings: &Bindings<'_>,
    report: &mut Report<'_>,
) {
    Awaits { definition, bindings, report }.visit_body(&module.body);
}

struct Awaits<'r, 's, 'b> {
    definition: &'r Definition,
    bindings: &'r Bindings<'b>,
    report: &'r mut Report<'s>,
}

/// Builtins that look into their arguments.
const CONSUMERS: [&str; 25] = [
    "abs",
    "all",
    "any",
    "bool",
    "dict",
    "divmod",
    "enumerate",
    "float",
    "frozenset",
    "int",
    "len",
    "list",
    "max",
    "min",
    "pow",
    "print",
    "range",
    "repr",
    "reversed",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
];

impl Awaits<'_, '_, '_> {
    /// The name of the function, when an expression is a call whose result must be awaited.
    fn awaitable(&self, expr: &Expr) -> Option<String> {
        let Expr::Call(call) = expr else { return None };
        if let Expr::Name(name) = call.func.as_ref() {
            let is_declared =
                self.definition.may_call(name.id.as_str()) && !self.bindings.is_bound(&name.id);
            let is_coroutine = self.bindings.only(&name.id) == Some(Binding::AsyncFunction);
            if is_declared || is_coroutine {
                return Some(name.id.to_string());
            }
        }
        match self.bindings.member(&call.func) {
            Some(("asyncio", member @ ("sleep" | "gather"))) => Some(format!("asyncio.{member}")),
            _ => None,
        }
    }

    /// Reports `expr` if it is a call that must be awaited first.
    fn used(&mut self, expr: &Expr, how: &str) {
        let Some(name) = self.awaitable(expr) else { return };
        self.report.add(Problem {
            range: expr.range().into(),
            message: format!("the call of '{name}' is {how}, but never awaited"),
            hint: format!("write `await {name}(...)`"),
        });
    }

    fn assigned(&mut self, target: &Expr, value: &Expr) {
        let Expr::Name(target) = target else { return };
        if self.bindings.loads(&target.id) > 0 || self.bindings.is_dynamic {
            return;
        }
        let how = format!("assigned to '{}', which is not used", target.id);
        self.used(value, &how);
    }

    fn compared(&mut self, compare: &ruff_python_ast::ExprCompare) {
        if compare.ops.iter().any(|op| matches!(op, CmpOp::Is | CmpOp::IsNot)) {
            return;
        }
        compare.operands.iter().for_each(|operand| self.used(operand, "compared"));
    }

    fn arguments(&mut self, call: &ruff_python_ast::ExprCall) {
        let Expr::Name(function) = call.func.as_ref() else { return };
        let is_consumer =
            CONSUMERS.contains(&function.id.as_str()) && !self.bindings.is_bound(&function.id);
        if is_consumer {
            let how = format!("passed to {}()", function.id);
            call.arguments.args.iter().for_each(|argument| self.used(argument, &how));
        }
    }
}

impl<'a> Visitor<'a> for Awaits<'_, '_, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Expr(inner) => self.used(&inner.value, "made"),
            Stmt::Assign(assign) => {
                if let [target] = assign.targets.as_slice() {
                    self.assigned(target, &assign.value);
                }
            }
            Stmt::AnnAssign(assign) => {
                if let Some(value) = &assign.value {
                    self.assigned(&assign.target, value);
                }
            }
            Stmt::AugAssign(assign) => self.used(&assign.value, "used in arithmetic"),
            Stmt::For(each) if !each.is_async => self.used(&each.iter, "looped over"),
            Stmt::If(branch) => {
                self.used(&branch.test, "tested");
                let tests =
                    branch.elif_else_clauses.iter().filter_map(|clause| clause.test.as_ref());
                tests.for_each(|test| self.used(test, "tested"));
            }
            Stmt::While(repeat) => self.used(&repeat.test, "tested"),
            Stmt::Assert(assert) => self.used(&assert.test, "tested"),
            Stmt::Match(matching) => self.used(&matching.subject, "matched"),
            _ => {}
        }
        visitor::walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::BinOp(operation) => {
                self.used(&operation.left, "used in arithmetic");
                self.used(&operation.right, "used in arithmetic");
            }
            Expr::UnaryOp(operation) => {
                let is_not = operation.op == UnaryOp::Not;
                self.used(&operation.operand, if is_not { "tested" } else { "used in arithmetic" });
            }
            Expr::Compare(compare) => self.compared(compare),
            Expr::If(choice) => self.used(&choice.test, "tested"),
            Expr::Subscript(subscript) => self.used(&subscript.value, "subscripted"),
            Expr::Attribute(attribute) => {
                self.used(&attribute.value, &format!("asked for its '{}'", attribute.attr));
            }
            Expr::Call(call) => self.arguments(call),
            _ => {}
        }
        visitor::walk_expr(self, expr);
    }

    fn visit_interpolated_string_element(&mut self, element: &'a InterpolatedStringElement) {
        if let InterpolatedStringElement::Interpolation(interpolation) = element {
            self.used(&interpolation.expression, "put into a string");
        }
        visitor::walk_interpolated_string_element(self, element);
    }

    fn visit_comprehension(&mut self, comprehension: &'a Comprehension) {
        if !comprehension.is_async {
            self.used(&comprehension.iter, "looped over");
        }
        comprehension.ifs.iter().for_each(|test| self.used(test, "tested"));
        visitor::walk_comprehension(self, comprehension);
    }
}
