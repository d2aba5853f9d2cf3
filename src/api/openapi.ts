/**
 * The OpenAPI 3.1 document of all routes, made from the schemas that validate, so that it cannot say anything else. OpenAPI 3.1 takes
 * JSON Schema 2020-12 as it is. Streams are GET operations that answer with text/event-stream; their events are described by the
 * vendor field `x-events`, name → schema of the data.
 * Source: https://spec.openapis.org/oas/v3.1.1.html
 */
import * as z from "zod/mini";
import { SCOPES } from "./messaging/route.ts";
import type { AnyRoute, Schema } from "./messaging/route.ts";

type Json = Readonly<Record<string, unknown>>;

interface ObjectSchema {
  readonly properties?: Readonly<Record<string, Json>>;
  readonly required?: readonly string[];
}

/** What a request must be like ("input") is also what an answer is like: no schema of the API transforms. */
function schemaOf(schema: Schema): Json {
  const {
    $schema: _dialect,
    "~standard": _standard,
    ...rest
  } = z.toJSONSchema(schema, {
    target: "draft-2020-12",
    io: "input",
    unrepresentable: "any",
  }) as Record<string, unknown>;
  return rest;
}

function parameters(schema: Schema | undefined, place: "path" | "query"): Json[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = schemaOf(schema) as ObjectSchema;
  return Object.entries(properties).map(([name, field]) => ({
    name,
    in: place,
    required: place === "path" || required.includes(name),
    schema: field,
  }));
}

const jsonContent = (schema: Json): Json => ({ "application/json": { schema } });
const errorAnswer = { description: "Refused or failed.", content: jsonContent({ $ref: "#/components/schemas/Error" }) };

function operation(route: AnyRoute): Json {
  const shared = {
    operationId: operationId(route),
    summary: route.summary,
    tags: [route.path.split("/")[2] ?? "node"],
    security: [{ bearer: [route.scope] }],
    parameters: [...parameters(route.params, "path"), ...parameters(route.query, "query")],
  };
  if (route.kind === "stream") {
    const events = Object.fromEntries(Object.entries(route.events).map(([name, schema]) => [name, schemaOf(schema)]));
    return {
      ...shared,
      parameters: [
        ...shared.parameters,
        { name: "Last-Event-ID", in: "header", required: false, schema: { type: "string", maxLength: 128 } },
      ],
      responses: {
        "200": {
          description: "Events, without end; `ready` first, `gap` where some are missing.",
          content: { "text/event-stream": { schema: { type: "string" } } },
        },
        default: errorAnswer,
      },
      "x-events": {
        ready: { type: "object", properties: { resumed: { type: "boolean" } }, required: ["resumed"] },
        gap: {
          type: "object",
          properties: { missed: { type: ["integer", "null"] }, reason: { enum: ["slow", "overrun", "restarted"] } },
          required: ["missed", "reason"],
        },
        ...events,
      },
    };
  }
  const body =
    route.body === undefined ? {} : { requestBody: { required: true, content: jsonContent(schemaOf(route.body)) } };
  const content =
    route.mediaType === undefined
      ? jsonContent(schemaOf(route.response))
      : { [route.mediaType]: { schema: { type: "string" } } };
  return { ...shared, ...body, responses: { "200": { description: "Done.", content }, default: errorAnswer } };
}

/** "POST /v1/topics/:topic/messages" → "postTopicsTopicMessages" */
function operationId(route: AnyRoute): string {
  const method = route.kind === "stream" ? "get" : route.method.toLowerCase();
  const words = route.path.split(/[^A-Za-z0-9]+/).filter((word) => word !== "" && word !== "v1");
  return method + words.map((word) => word.slice(0, 1).toUpperCase() + word.slice(1)).join("");
}

export function openApiDocument(routes: readonly AnyRoute[], version: string): Json {
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of routes) {
    const path = route.path.replaceAll(/:([A-Za-z]+)/g, "{$1}");
    (paths[path] ??= {})[route.kind === "stream" ? "get" : route.method.toLowerCase()] = operation(route);
  }
  return {
    openapi: "3.1.1",
    info: {
      title: "Weft, local API",
      version,
      description: "On the unix socket weft.sock without a token; on 127.0.0.1 with a bearer token that has the scope.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    jsonSchemaDialect: "https://json-schema.org/draft/2020-12/schema",
    paths,
    components: {
      schemas: {
        Error: {
          type: "object",
          properties: {
            code: { type: "string", description: "Stable, upper case." },
            message: { type: "string" },
            remedy: { type: "string", description: "What the caller can do." },
          },
          required: ["code", "message", "remedy"],
        },
      },
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: `Scopes: ${SCOPES.join(", ")}; admin includes all.` },
      },
    },
  };
}
