"use strict";

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Describe a schema in a few words; schemas with a name are shown once, below. */
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items) || "values"}`;
  if (schema.format === "binary") return "file";
  if (schema.additionalProperties) return `object of ${typeOf(schema.additionalProperties)}`;
  return schema.type ?? "any";
}

function propertiesTable(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)),
      element("td", {}, typeOf(property)), element("td", {}, property.description ?? "")));
  return element("div", { class: "scroll" }, element("table", {}, element("tbody", {}, ...rows)));
}

function operation(path, method, details) {
  const section = element("section", { class: "card" },
    element("h2", {}, element("code", {}, `${method.toUpperCase()} ${path}`)),
    ...(details.description ?? "").split("\n\n").filter(Boolean).map((words) => element("p", {}, words)));
  if (details.parameters?.length) {
    const properties = Object.fromEntries(details.parameters.map((parameter) =>
      [parameter.name, { ...parameter.schema, description: parameter.description }]));
    section.append(element("h3", {}, "Parameters"), propertiesTable({ properties }));
  }
  for (const [type, { schema }] of Object.entries(details.requestBody?.content ?? {})) {
    section.append(element("h3", {}, `Body: ${type}`));
    if (schema.properties) section.append(propertiesTable(schema));
  }
  const answers = Object.entries(details.responses).map(([status, answer]) => {
    const types = Object.entries(answer.content ?? {}).map(([type, { schema }]) => `${type}: ${typeOf(schema)}`);
    return element("li", {}, element("code", {}, status), ` ${answer.description} ${types.join(", ")}`);
  });
  section.append(element("h3", {}, "Answers"), element("ul", {}, ...answers));
  return section;
}

async function start() {
  document.getElementById("example").textContent =
    `curl -F photograph=@17_left.jpg -F photograph=@17_right.jpg ${location.origin}/score`;
  const place = document.getElementById("operations");
  try {
    const api = await (await fetch("/openapi.json")).json();
    const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, details]) => operation(path, method, details)));
    const schemas = Object.entries(api.components.schemas).map(([name, schema]) =>
      element("section", { class: "card" }, element("h2", {}, name),
        ...(schema.description ?? "").split("\n\n").filter(Boolean).map((words) => element("p", {}, words)),
        propertiesTable(schema)));
    place.replaceChildren(...operations, ...schemas);
    place.className = "operations";
  } catch {
    place.textContent = "The service does not answer.";
  }
}

start();
