// Makes calls by the clients of Node, as they are told; see steps.py.
const readline = require("readline");

// A warning is no line of ours.
globalThis.AI_SDK_LOG_WARNINGS = false;

const URL = process.env.PS_API_URL;
const HELLO = "Hello!";
const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const DESCRIPTION = "Tells the weather.";

async function chat(step, told) {
  const OpenAI = require("openai");
  const client = new OpenAI({ baseURL: URL + "/v1", apiKey: step.key });
  const messages = [{ role: "user", content: HELLO }];
  const asked = { model: step.model, messages };
  if (step.tool) {
    asked.tools = [{ type: "function", function: { name: "weather", description: DESCRIPTION, parameters: SCHEMA } }];
  }
  const ask = async () => {
    if (!step.stream) {
      const [choice] = (await client.chat.completions.create(asked)).choices;
      told.end = choice.finish_reason;
      told.text += choice.message.content ?? "";
      return choice.message.tool_calls ?? [];
    }
    const calls = [];
    for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
      for (const { delta, finish_reason } of chunk.choices) {
        told.text += delta.content ?? "";
        told.end = finish_reason ?? told.end;
        for (const { index, id, function: part } of delta.tool_calls ?? []) {
          calls[index] ??= { id, type: "function", function: { name: part.name, arguments: "" } };
          calls[index].function.arguments += part.arguments ?? "";
        }
      }
    }
    return calls;
  };
  const calls = await ask();
  if (calls.length > 0) {
    told.tool = JSON.parse(calls[0].function.arguments);
    messages.push({ role: "assistant", content: null, tool_calls: calls });
    messages.push({ role: "tool", tool_call_id: calls[0].id, content: "It rains." });
    await ask();
  }
}

async function responses(step, told) {
  const OpenAI = require("openai");
  const client = new OpenAI({ baseURL: URL + "/v1", apiKey: step.key });
  const asked = { model: step.model, store: false };
  if (step.tool) asked.tools = [{ type: "function", name: "weather", description: DESCRIPTION, parameters: SCHEMA }];
  const ask = async (input) => {
    let last;
    if (step.stream) {
      for await (const event of await client.responses.create({ ...asked, input, stream: true })) {
        if (event.type === "response.output_text.delta") told.text += event.delta;
        last = event.response ?? last;
      }
    } else {
      last = await client.responses.create({ ...asked, input });
      told.text += last.output_text;
    }
    told.end = last.status;
    return last.output.filter((item) => item.type === "function_call");
  };
  const [call] = await ask(HELLO);
  if (call) {
    told.tool = JSON.parse(call.arguments);
    const result = { type: "function_call_output", call_id: call.call_id, output: "It rains." };
    await ask([{ role: "user", content: HELLO }, call, result]);
  }
}

async function anthropic(step, told) {
  const Anthropic = require("@anthropic-ai/sdk");
  const client = new Anthropic({ baseURL: URL, apiKey: step.key });
  const messages = [{ role: "user", content: HELLO }];
  const asked = { model: step.model, max_tokens: 2000, messages };
  if (step.tool) asked.tools = [{ name: "weather", description: DESCRIPTION, input_schema: SCHEMA }];
  const ask = async () => {
    let message;
    if (step.stream) {
      const stream = client.messages.stream(asked);
      stream.on("text", (text) => (told.text += text));
      message = await stream.finalMessage();
    } else {
      message = await client.messages.create(asked);
      for (const block of message.content) told.text += block.text ?? "";
    }
    told.end = message.stop_reason;
    return message;
  };
  const message = await ask();
  const call = message.content.at(-1);
  if (call?.type === "tool_use") {
    told.tool = call.input;
    messages.push({ role: "assistant", content: message.content });
    messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "It rains." }] });
    await ask();
  }
}

async function gemini(step, told) {
  const { GoogleGenAI } = require("@google/genai");
  const client = new GoogleGenAI({ apiKey: step.key, httpOptions: { baseUrl: URL } });
  const declared = { name: "weather", description: DESCRIPTION, parametersJsonSchema: SCHEMA };
  const config = step.tool ? { tools: [{ functionDeclarations: [declared] }] } : {};
  const contents = [{ role: "user", parts: [{ text: HELLO }] }];
  const ask = async () => {
    const asked = { model: step.model, contents, config };
    const answers = step.stream
      ? await client.models.generateContentStream(asked)
      : [await client.models.generateContent(asked)];
    const parts = [];
    for await (const answer of answers) {
      for (const candidate of answer.candidates ?? []) {
        told.end = candidate.finishReason ?? told.end;
        for (const part of candidate.content?.parts ?? []) {
          told.text += part.text ?? "";
          parts.push(part);
        }
      }
    }
    return parts.find((part) => part.functionCall);
  };
  const call = await ask();
  if (call) {
    told.tool = call.functionCall.args;
    contents.push({ role: "model", parts: [call] });
    const functionResponse = { name: "weather", response: { result: "It rains." } };
    contents.push({ role: "user", parts: [{ functionResponse }] });
    await ask();
  }
}

// Vercel's `ai`, with the provider of each protocol.
const PROVIDERS = {
  "ai-openai-chat": (options, model) => require("@ai-sdk/openai").createOpenAI(options("/v1")).chat(model),
  "ai-openai-responses": (options, model) => require("@ai-sdk/openai").createOpenAI(options("/v1"))(model),
  "ai-anthropic": (options, model) => require("@ai-sdk/anthropic").createAnthropic(options("/v1"))(model),
  "ai-gemini": (options, model) => require("@ai-sdk/google").createGoogleGenerativeAI(options("/v1beta"))(model),
};

async function ai(step, told) {
  const { generateText, jsonSchema, stepCountIs, streamText, tool } = require("ai");
  const execute = async (given) => {
    told.tool = given;
    return "It rains.";
  };
  const weather = () => tool({ description: DESCRIPTION, inputSchema: jsonSchema(SCHEMA), execute });
  const options = (base) => ({ baseURL: URL + base, apiKey: step.key });
  const asked = { model: PROVIDERS[step.client](options, step.model), prompt: HELLO, stopWhen: stepCountIs(2) };
  if (step.tool) asked.tools = { weather: weather() };
  if (step.stream) {
    let failed;
    const stream = streamText({ ...asked, onError: ({ error }) => (failed = error) });
    for await (const part of stream.textStream) told.text += part;
    if (failed) throw failed;
    told.end = await stream.finishReason;
  } else {
    const answer = await generateText(asked);
    [told.text, told.end] = [answer.text, answer.finishReason];
  }
}

const CLIENTS = { "openai-chat": chat, "openai-responses": responses, anthropic, gemini };

// What a person can read of an exception, or a program.
function described(error) {
  // `ai` keeps what it has tried.
  const last = error.lastError ?? error;
  let body = last.error ?? last.data ?? null;
  let status = last.status ?? last.statusCode ?? null;
  if (typeof body === "string") body = { error: { message: body } };
  if (!body && last.message.includes("{")) {
    try {
      body = JSON.parse(last.message.slice(last.message.indexOf("{")));
    } catch {
      body = null;
    }
  }
  const within = body?.error ?? body ?? {};
  const code = last.code ?? within.code ?? within.type ?? last.type ?? null;
  return {
    class: last.constructor.name,
    status,
    code: typeof within.status === "string" ? within.status : code,
    message: error.message,
  };
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const step = JSON.parse(line);
    const told = { text: "", tool: null, end: null };
    let error = null;
    try {
      await (CLIENTS[step.client] ?? ai)(step, told);
    } catch (caught) {
      error = described(caught);
    }
    console.log(JSON.stringify({ ...told, error }));
  }
}

main();
