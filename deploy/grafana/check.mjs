#!/usr/bin/env node
// Holds the dashboards against Grafana's own types: a field that Grafana does not know, a value that is
// none of its words, and a text where it wants a number are errors, as in a program. The types are
// those of the Grafana that docker-compose.yml starts:
//
//   npm install --ignore-scripts --prefix target/grafana @grafana/schema@12.1.0 typescript@5
//   node deploy/grafana/check.mjs                     the dashboards of this folder
//   node deploy/grafana/check.mjs FILE...             others
//
// Leaves queries to the test that asks a real Prometheus. Exits 0 if nothing is wrong, 1 with what is,
// 3 without the packages.
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const place = join(here, "../../target/grafana");
let ts;
try {
  ts = createRequire(join(place, "package.json"))("typescript");
  createRequire(join(place, "package.json")).resolve("@grafana/schema/package.json");
} catch {
  console.error(
    "@grafana/schema is not here: npm install --ignore-scripts --prefix target/grafana " +
      "@grafana/schema@12.1.0 typescript@5",
  );
  process.exit(3);
}

// Kinds of panels, and where the types of their options are.
const KINDS = {
  heatmap: "heatmap/panelcfg/x/HeatmapPanelCfg_types.gen",
  stat: "stat/panelcfg/x/StatPanelCfg_types.gen",
  "state-timeline": "statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen",
  table: "table/panelcfg/x/TablePanelCfg_types.gen",
  timeseries: "timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen",
};
const TYPES = "@grafana/schema/dist/types/raw";

// What JSON may say for a type: an enum's words as texts, and options in part, since Grafana adds
// its defaults. A panel's query is Prometheus', which has no types in the package.
const PRELUDE = `
import type { Dashboard, Panel, RowPanel } from "${TYPES}/dashboard/x/dashboard_types.gen";
type Json<T> = T extends string ? (string extends T ? string : \`\${T}\`)
  : T extends number | boolean | null | undefined ? T
  : T extends Array<infer U> ? Array<Json<U>>
  : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
type Part<T> = T extends Array<infer U> ? Array<Part<U>>
  : T extends object ? { [K in keyof T]?: Part<T[K]> } : T;
type Options<T> = Part<Json<T>>;
type Query = {
  refId: string; expr: string; legendFormat?: string; editorMode?: "code" | "builder";
  datasource: { type: "prometheus"; uid: string };
  instant?: boolean; range?: boolean; exemplar?: boolean; interval?: string;
  format?: "time_series" | "table" | "heatmap";
};
`;

/** A dashboard as a program; `lines[i]` says what line `i` of it is about. */
function program(dashboard) {
  const lines = PRELUDE.split("\n").map(() => "the types");
  let text = PRELUDE;
  const say = (about, line) => {
    text += `${line}\n`;
    lines.push(about);
  };
  lines.pop();
  const { panels, ...rest } = dashboard;
  say("the dashboard", `const dashboard: Json<Omit<Dashboard, "panels">> = ${JSON.stringify(rest)};`);
  const kinds = new Map();
  const add = (panel, index) => {
    const about = `panel ${JSON.stringify(panel.title)}`;
    if (panel.type === "row") {
      say(about, `const panel${index}: Json<RowPanel> = ${JSON.stringify(panel)};`);
      return;
    }
    if (!(panel.type in KINDS)) {
      say(about, `const panel${index}: "one of ${Object.keys(KINDS)}" = ${JSON.stringify(panel.type)};`);
      return;
    }
    if (!kinds.has(panel.type)) {
      kinds.set(panel.type, `kind${kinds.size}`);
      say(about, `import type * as ${kinds.get(panel.type)} from "${TYPES}/composable/${KINDS[panel.type]}";`);
    }
    const kind = kinds.get(panel.type);
    const { options, targets, ...plain } = panel;
    say(about, `const panel${index}: Json<Panel> = ${JSON.stringify(plain)};`);
    say(`${about}, options`, `const options${index}: Options<${kind}.Options> = ${JSON.stringify(options)};`);
    say(`${about}, targets`, `const targets${index}: Array<Query> = ${JSON.stringify(targets)};`);
    const custom = panel.fieldConfig?.defaults?.custom;
    if (custom !== undefined) {
      say(
        `${about}, fieldConfig.defaults.custom`,
        `const custom${index}: Options<${kind}.FieldConfig> = ${JSON.stringify(custom)};`,
      );
    }
  };
  panels.forEach(add);
  return { text, lines };
}

const files = process.argv.length > 2
  ? process.argv.slice(2)
  : readdirSync(join(here, "dashboards")).sort().map((name) => join(here, "dashboards", name));
const programs = new Map();
for (const file of files) {
  const name = join(place, `${basename(file, ".json")}.ts`);
  programs.set(name, { file, ...program(JSON.parse(readFileSync(file, "utf8"))) });
}
const settings = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Node10,
  // Not the browser's.
  lib: ["lib.es2022.d.ts"],
  types: [],
};
const host = ts.createCompilerHost(settings);
const { getSourceFile, fileExists, readFile } = host;
host.getSourceFile = (name, ...more) =>
  programs.has(name)
    ? ts.createSourceFile(name, programs.get(name).text, ts.ScriptTarget.ES2022)
    : getSourceFile.call(host, name, ...more);
host.fileExists = (name) => programs.has(name) || fileExists(name);
host.readFile = (name) => programs.get(name)?.text ?? readFile(name);

const wrong = ts.getPreEmitDiagnostics(ts.createProgram([...programs.keys()], settings, host));
for (const found of wrong) {
  const text = ts.flattenDiagnosticMessageText(found.messageText, "\n  ");
  const source = found.file && programs.get(found.file.fileName);
  if (!source) {
    console.error(text);
    continue;
  }
  const { line } = found.file.getLineAndCharacterOfPosition(found.start);
  const piece = source.text.slice(found.start, found.start + found.length).slice(0, 60);
  console.error(`${source.file}: ${source.lines[line]}: ${piece}: ${text}`);
}
if (wrong.length > 0) process.exit(1);
const count = [...programs.values()].map(({ lines }) => lines.length).reduce((a, b) => a + b, 0);
console.log(`${files.length} dashboards fit Grafana's types (${count} lines compared)`);
