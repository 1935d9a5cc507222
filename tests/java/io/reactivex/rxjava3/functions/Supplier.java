package io.reactivex.rxjava3.functions;

public interface Supplier<T> { T get() throws Throwable; }
