// What this browser keeps: small things in localStorage, pictures in IndexedDB.

export function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`daedal.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function write(name, value) {
  try {
    localStorage.setItem(`daedal.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false; // full, or forbidden: the studio works on, and forgets
  }
}

let opening;

function database() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("daedal", 1);
    request.onupgradeneeded = () =>
      request.result.createObjectStore("gallery", { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function on(mode, work) {
  const store = (await database()).transaction("gallery", mode).objectStore("gallery");
  const request = work(store);
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// Things made: {medium, prompt, model, blob or text, recipe, at}.
export const gallery = {
  all: async () => (await on("readonly", (store) => store.getAll())).reverse(),
  add: (item) => on("readwrite", (store) => store.add(item)),
  remove: (id) => on("readwrite", (store) => store.delete(id)),
};
