// Grants, and tools: plain functions of this process that a task can call.
//
// A task is not trusted: of an exception it sees no more than that there was one, unless it is a
// ToolError; and a function checks its own arguments.

import { Buffer } from "node:buffer";

import { InvalidArgumentError } from "./errors.js";
import * as schema from "./generated/mayfly.js";
import { checkHandler, checkKeys, checkObject } from "./keys.js";
import type { Keys } from "./keys.js";
import { reserve } from "./rpc.js";

const ANSWER_BYTES_MAX = 1 << 20;
const MESSAGE_CHARACTERS_MAX = 1_000;

/** Gets what the task sent, every byte of it the task's choice; gives a value that JSON can hold. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type ToolFunction = (args: any) => unknown;

export interface Tool {
  /** For people and models. */
  description?: string | undefined;
  /** JSON schema of the arguments. It tells the task what to send; nothing is checked by it. */
  parameters?: Readonly<Record<string, unknown>> | undefined;
  call: ToolFunction;
}

/** Throw it in a tool to tell the task why: its message is sent into the box. */
export class ToolError extends Error {
  override readonly name = "ToolError";
}

const TOOL: Keys<Tool> = { description: true, parameters: true, call: true };

/** @internal */
export interface PreparedTool {
  name: string;
  description: string;
  schemaJson: string;
  call: ToolFunction;
}

const textOf = (name: string, text: unknown): string => {
  if (typeof text !== "string") throw new InvalidArgumentError(`${name} is not a string`);
  if (/\p{Surrogate}/u.test(text))
    throw new InvalidArgumentError(`${name} is not valid Unicode text`);
  return text;
};

/** Pairs of name and bounds. @internal */
export function grantsFrom(list: unknown): readonly (readonly [string, string])[] {
  if (list === undefined) return [];
  if (!Array.isArray(list)) throw new InvalidArgumentError("grants is not a list of strings");
  return list.map((each: unknown, i) => {
    const text = textOf(`grants[${i}]`, each);
    const colon = text.indexOf(":");
    const name = colon < 0 ? text : text.slice(0, colon);
    if (name === "") throw new InvalidArgumentError(`grants[${i}]: '${text}' names no action`);
    return [name, colon < 0 ? "" : text.slice(colon + 1)] as const;
  });
}

/** @internal */
export function toolsFrom(tools: unknown): readonly PreparedTool[] {
  if (tools === undefined) return [];
  checkObject("tools", tools);
  return Object.entries(tools).map(([name, given]: [string, unknown]) => {
    const where = `tools.${name}`;
    textOf("tools: a name", name);
    if (typeof given === "function")
      return { name, description: "", schemaJson: "", call: given as ToolFunction };
    checkKeys(where, given, TOOL);
    const { description = "", parameters, call } = given as Tool;
    checkHandler(`${where}.call`, call);
    if (call === undefined) throw new InvalidArgumentError(`${where} has no \`call\``);
    if (parameters !== undefined) checkObject(`${where}.parameters`, parameters);
    return {
      name,
      description: textOf(`${where}.description`, description),
      schemaJson: parameters === undefined ? "" : JSON.stringify(parameters),
      call,
    };
  });
}

/** The daemon calls it for the task. @internal */
export class ToolBox {
  private readonly tools: ReadonlyMap<string, ToolFunction>;

  constructor(tools: readonly PreparedTool[]) {
    this.tools = new Map(tools.map((tool) => [tool.name, tool.call]));
  }

  client(): schema.ToolBox$Client {
    return new schema.ToolBox$Server({
      call: async (params, results) => {
        const answer = await this.answer(params.name, params.json);
        if (typeof answer === "string") {
          reserve(results, Buffer.byteLength(answer) + 64);
          results.json = answer;
          return;
        }
        const error = results._initError();
        error.code = answer.code;
        error.message = answer.message;
      },
    }).client();
  }

  private async answer(
    name: string,
    text: string,
  ): Promise<string | { code: schema.ErrorCode; message: string }> {
    const tool = this.tools.get(name);
    if (tool === undefined)
      return { code: schema.ErrorCode.NOT_FOUND, message: "there is no such tool" };
    let args: unknown;
    try {
      args = text === "" ? {} : JSON.parse(text);
    } catch {
      return { code: schema.ErrorCode.INVALID_ARGUMENT, message: "the arguments are not JSON" };
    }
    let value: unknown;
    try {
      value = await tool(args);
    } catch (error) {
      return failure(error);
    }
    const unfit = { code: schema.ErrorCode.FAILED_PRECONDITION };
    let answer: string | undefined;
    try {
      answer = JSON.stringify(value === undefined ? null : value);
    } catch {
      answer = undefined;
    }
    if (answer === undefined) return { ...unfit, message: "the tool's answer is not JSON" };
    const bytes = Buffer.byteLength(answer);
    if (bytes > ANSWER_BYTES_MAX)
      return {
        ...unfit,
        message: `the tool's answer has ${bytes} bytes; at most ${ANSWER_BYTES_MAX}`,
      };
    return answer;
  }
}

const wellFormed = (text: string): string => text.replace(/\p{Surrogate}/gu, "\ufffd");

// The text of any other exception may hold what no task should see.
function failure(error: unknown): { code: schema.ErrorCode; message: string } {
  if (error instanceof ToolError)
    return {
      code: schema.ErrorCode.FAILED_PRECONDITION,
      message: wellFormed(error.message.slice(0, MESSAGE_CHARACTERS_MAX)),
    };
  const kind = error instanceof Error ? wellFormed(String(error.name)) : typeof error;
  return { code: schema.ErrorCode.INTERNAL, message: `the tool failed: ${kind.slice(0, 100)}` };
}
