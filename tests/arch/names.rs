//! What a source names outside its tests, and where a name leads.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Meta, Token, punctuated::Punctuated, spanned::Spanned as _, visit::Visit};

use crate::Source;

/// A path as it is written, and the module it is written in.
pub(crate) struct Written {
    global: bool,
    pub(crate) path: Vec<String>,
    module: Vec<String>,
    pub(crate) line: usize,
}

/// A type as a file declares it.
pub(crate) struct Declared {
    pub(crate) name: String,
    /// Whether it is `pub` without a restriction.
    pub(crate) is_public: bool,
    pub(crate) line: usize,
}

/// What a file names outside its tests.
#[derive(Default)]
pub(crate) struct Names {
    module: Vec<String>,
    pub(crate) paths: Vec<Written>,
    aliases: BTreeMap<String, Vec<String>>,
    pub(crate) modules: Vec<(String, usize)>,
    /// What it re-exports, by the name under which it does.
    pub(crate) exports: BTreeMap<String, Written>,
    pub(crate) types: Vec<Declared>,
    pub(crate) constants: Vec<(String, usize)>,
    pub(crate) test_modules: Vec<Vec<String>>,
    pub(crate) test_lines: usize,
    pub(crate) calls: Vec<(String, usize)>,
    pub(crate) literals: Vec<(String, usize)>,
}

/// Whether what carries these is compiled for tests only.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    fn only_tests(meta: &Meta) -> bool {
        let Meta::List(list) = meta else { return meta.path().is_ident("test") };
        let inner = list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .unwrap_or_default();
        if list.path.is_ident("any") {
            !inner.is_empty() && inner.iter().all(only_tests)
        } else {
            (list.path.is_ident("all") || list.path.is_ident("cfg")) && inner.iter().any(only_tests)
        }
    }
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let marked = path.segments.last().is_some_and(|last| last.ident == "test");
        marked || (path.is_ident("cfg") && only_tests(&attribute.meta))
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Each path that a `use` brings in, with the name it goes by from there on.
fn flatten(tree: &syn::UseTree, prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let with = |name: &syn::Ident| match name.to_string().as_str() {
        "self" if !prefix.is_empty() => prefix.to_vec(),
        name => [prefix, &[name.to_owned()]].concat(),
    };
    match tree {
        syn::UseTree::Path(path) => flatten(&path.tree, &with(&path.ident), out),
        syn::UseTree::Name(name) => {
            let path = with(&name.ident);
            let last = path.last().cloned().unwrap_or_default();
            out.push((path, last));
        }
        syn::UseTree::Rename(name) => out.push((with(&name.ident), name.rename.to_string())),
        syn::UseTree::Glob(_) => out.push(([prefix, &["*".to_owned()]].concat(), String::new())),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|item| flatten(item, prefix, out));
        }
    }
}

impl Names {
    pub(crate) fn of(source: &Source) -> Self {
        let file = syn::parse_file(&source.text).unwrap();
        let mut names = Self { module: source.module(), ..Self::default() };
        names.visit_file(&file);
        names
    }

    fn write(&mut self, global: bool, path: Vec<String>, line: usize) {
        let written = self.written(global, path, line);
        self.paths.push(written);
    }

    fn written(&self, global: bool, path: Vec<String>, line: usize) -> Written {
        Written { global, path, module: self.module.clone(), line }
    }

    fn declare(&mut self, name: &syn::Ident, visibility: &syn::Visibility) {
        self.types.push(Declared {
            name: name.to_string(),
            is_public: matches!(visibility, syn::Visibility::Public(_)),
            line: name.span().start().line,
        });
    }

    fn declare_constant(&mut self, name: &syn::Ident) {
        self.constants.push((name.to_string(), name.span().start().line));
    }

    /// Macros take tokens, which are no paths or calls yet.
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, mark: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == mark);
        let joined = |at: usize| is(at, ':') && is(at + 1, ':');
        let mut at = 0;
        while at < tokens.len() {
            let line = tokens[at].span().start().line;
            match &tokens[at] {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Literal(literal) => self.keep(&syn::Lit::new(literal.clone()), line),
                TokenTree::Ident(first) => {
                    if at > 0 && is(at - 1, '.') {
                        self.calls.push((first.to_string(), line));
                    }
                    let global = at > 1 && joined(at - 2);
                    let mut path = vec![first.to_string()];
                    while joined(at + 1)
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.write(global, path, line);
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    fn keep(&mut self, literal: &syn::Lit, line: usize) {
        match literal {
            syn::Lit::Str(text) => self.literals.push((text.value(), line)),
            syn::Lit::ByteStr(text) => {
                self.literals.push((String::from_utf8_lossy(&text.value()).into_owned(), line));
            }
            _ => {}
        }
    }

    /// Where a path leads: rooms and what they hold (after `crate`), or a crate and what it holds.
    pub(crate) fn resolve(&self, written: &Written, crates: &BTreeSet<String>) -> Option<Way> {
        let (first, rest) = written.path.split_first()?;
        if written.global {
            return Some(Way::Out(written.path.clone()));
        }
        match first.as_str() {
            "crate" => return Some(Way::In(rest.to_vec())),
            "self" | "super" => {
                let mut module = written.module.clone();
                let mut rest = written.path.as_slice();
                while let [first, others @ ..] = rest
                    && matches!(first.as_str(), "self" | "super")
                {
                    if first == "super" {
                        module.pop();
                    }
                    rest = others;
                }
                return Some(Way::In([&module, rest].concat()));
            }
            _ => {}
        }
        if let Some(meant) = self.aliases.get(first)
            && meant.first() != Some(first)
        {
            let path = [meant.as_slice(), rest].concat();
            // An alias of an alias is judged where it is made.
            if path.first().is_some_and(|first| !self.aliases.contains_key(first)) {
                let module = written.module.clone();
                return self.resolve(&Written { global: false, path, module, line: 0 }, crates);
            }
        }
        if self.modules.iter().any(|(name, _)| name == first) {
            return Some(Way::In([&written.module, written.path.as_slice()].concat()));
        }
        crates.contains(first).then(|| Way::Out(written.path.clone()))
    }
}

#[derive(Debug)]
pub(crate) enum Way {
    In(Vec<String>),
    Out(Vec<String>),
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(attributes(item)) {
            use syn::Item;
            match item {
                Item::Struct(item) => self.declare(&item.ident, &item.vis),
                Item::Enum(item) => self.declare(&item.ident, &item.vis),
                Item::Union(item) => self.declare(&item.ident, &item.vis),
                Item::Trait(item) => self.declare(&item.ident, &item.vis),
                Item::Type(item) => self.declare(&item.ident, &item.vis),
                Item::Const(item) => self.declare_constant(&item.ident),
                Item::Static(item) => self.declare_constant(&item.ident),
                _ => {}
            }
            return syn::visit::visit_item(self, item);
        }
        self.test_lines += item.span().end().line + 1 - item.span().start().line;
        if let syn::Item::Mod(item) = item
            && item.content.is_none()
        {
            self.test_modules.push([&self.module[..], &[item.ident.to_string()]].concat());
        }
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        if !is_test(&item.attrs) {
            self.declare_constant(&item.ident);
            syn::visit::visit_impl_item_const(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test(&item.attrs) {
            self.test_lines += item.span().end().line + 1 - item.span().start().line;
        } else {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.modules.push((item.ident.to_string(), item.span().start().line));
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.write(true, vec![item.ident.to_string()], item.span().start().line);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        flatten(&item.tree, &[], &mut found);
        let (global, line) = (item.leading_colon.is_some(), item.span().start().line);
        let is_export = !matches!(item.vis, syn::Visibility::Inherited);
        for (path, alias) in found {
            if is_export && !alias.is_empty() {
                let written = self.written(global, path.clone(), line);
                self.exports.insert(alias.clone(), written);
            }
            if !alias.is_empty() {
                self.aliases.insert(alias, path.clone());
            }
            self.write(global, path, line);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1 {
            self.write(path.leading_colon.is_some(), names, path.span().start().line);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
        syn::visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.scan(called.tokens.clone());
        syn::visit::visit_macro(self, called);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.calls.push((call.method.to_string(), call.method.span().start().line));
        syn::visit::visit_expr_method_call(self, call);
    }

    fn visit_lit(&mut self, literal: &'ast syn::Lit) {
        self.keep(literal, literal.span().start().line);
    }
}
