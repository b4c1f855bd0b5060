// Examples of what models wrote, filtered and searched. Their text comes from JSON and is only ever set as text.
for (const section of document.querySelectorAll(".written")) {
  const live = section.querySelector(".live");
  if (!live) continue;
  const examples = JSON.parse(live.querySelector("script").textContent);
  const words = examples.map((example) =>
    [example.title, example.prompt, example.reference, ...example.answers.flatMap((one) => [one.said, one.text, one.answer])]
      .join("\n").toLowerCase());
  const [list, status, search] = [".examples", "[role=status]", "[type=search]"].map((name) => live.querySelector(name));
  const [before, after] = [".before", ".after"].map((name) => live.querySelector(name));
  const perTurn = 10;
  let found = [], first = 0;

  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (kind.startsWith("said")) made.dir = "auto";
    made.textContent = text;
    return made;
  };
  const answerBox = (answer) => {
    const box = element("div", "answer", "");
    box.append(element("h4", "", answer.said), element("p", "said", answer.text));
    if (answer.answer) {
      const line = element("p", "found", "Answer: ");
      line.append(element("bdi", "said", answer.answer));
      box.append(line);
    }
    if (answer.note) box.append(element("p", "found", answer.note));
    return box;
  };
  const article = (example) => {
    const made = element("article", "example", "");
    made.append(element("h3", "", example.title), element("p", "said of-problem", example.prompt));
    if (example.reference) made.append(element("p", "said reference", example.reference));
    const answers = element("div", "answers", "");
    answers.append(...example.answers.map(answerBox));
    made.append(answers);
    return made;
  };
  const show = () => {
    const shown = found.slice(first, first + perTurn);
    list.replaceChildren(...shown.map((place) => article(examples[place])));
    // What scrolls must be reached by keyboard.
    for (const text of list.querySelectorAll("p.said")) if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
    status.textContent = found.length
      ? `Examples ${first + 1} to ${first + shown.length} of ${found.length}`
      : "No example fits";
    before.disabled = first === 0;
    after.disabled = first + perTurn >= found.length;
  };
  const choose = () => {
    const filter = Number(live.querySelector("[type=radio]:checked").value);
    const sought = search.value.toLowerCase();
    found = [...examples.keys()].filter((at) => examples[at].filters.includes(filter) && words[at].includes(sought));
    first = 0;
    show();
  };
  const turn = (by) => { first += by; show(); live.scrollIntoView({ block: "start" }); };
  before.addEventListener("click", () => turn(-perTurn));
  after.addEventListener("click", () => turn(perTurn));
  live.addEventListener("input", choose);
  live.hidden = false;
  section.classList.add("searchable");
  choose();
}
